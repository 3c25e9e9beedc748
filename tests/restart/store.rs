//! Hosts whose store is not there any more, or is another.

use super::*;

const PLAIN: Plan = Plan { programs: false, pool: "", http: "" };

/// The files of the store.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let all = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    all.filter(|file| file.file_name().unwrap().to_str().unwrap().starts_with("test.db")).collect()
}

impl Hosts {
    async fn restart(&mut self) {
        let pid = self.pid();
        if !has_ended(pid) {
            kill(pid, Signal::KILL);
        }
        drop(self.first.wait());
        let log = File::options().append(true).open(self.folder.path().join("log")).unwrap();
        self.first = Command::new(binary())
            .args(["serve", "--config"])
            .arg(self.folder.path().join("cutover.toml"))
            .stderr(log)
            .spawn()
            .unwrap();
        self.pids = vec![self.first.id()];
        self.until_ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_store_is_deleted_is_not_replaced_and_one_that_makes_a_new_one_says_so() {
    let mut hosts = PLAIN.start().await;
    hosts.order("shop", "pause").await;
    let mut kept = hosts.connect().await;
    let aside = TempDir::new().unwrap();
    for file in files(hosts.folder.path()) {
        fs::rename(&file, aside.path().join(file.file_name().unwrap())).unwrap();
    }
    let before = hosts.log().len();
    hosts.signal(Signal::USR2);
    let log = hosts.until_logged(before, "no successor, so this host goes on").await;
    assert!(log.contains("was deleted under the host"), "{log}");
    assert!(hosts.first.try_wait().unwrap().is_none());
    assert_eq!(kept.send(get("/", &[])).await.unwrap().0, 200);
    let status = hosts.status("shop").await;
    assert_eq!((&status["phase"], &status["share"]), (&json!("paused"), &json!(500_000)));

    // Without it everything begins anew, which nobody overlooks until somebody has given an order.
    let before = hosts.log().len();
    hosts.restart().await;
    let log = hosts.until_logged(before, "is a new one").await;
    let told = log.lines().find(|line| line.contains("is a new one")).unwrap();
    assert!(told.contains("WARN") && told.contains("test.db`") && told.contains("store-new"), "{told}");
    hosts.until_phase("shop", "shadow").await;
    let new = hosts.status("shop").await["store_new"].clone();
    assert!(new.as_str().unwrap().contains("every migration begins anew"), "{new}");
    hosts.restart().await;
    hosts.until_phase("shop", "shadow").await;
    assert_eq!(hosts.status("shop").await["store_new"], new, "a restart tells nobody");
    hosts.order("shop", "pause").await;
    assert_eq!(hosts.status("shop").await["store_new"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_stays_when_the_store_of_before_is_put_back_and_has_its_marker_when_it_is_answered() {
    let mut hosts = PLAIN.start().await;
    let (folder, aside) = (hosts.folder.path().to_owned(), TempDir::new().unwrap());
    let marker = folder.join(".cutover/shop.rolled-back");
    // Many decisions: the numbers of the other store will be lower.
    for _ in 0..5 {
        hosts.order("shop", "pause").await;
        hosts.order("shop", "resume").await;
    }
    hosts.signal(Signal::KILL);
    drop(hosts.first.wait());
    for file in files(&folder) {
        fs::rename(&file, aside.path().join(file.file_name().unwrap())).unwrap();
    }
    hosts.restart().await;
    hosts.until_phase("shop", "shadow").await;
    hosts.order("shop", "rollback").await;
    assert!(marker.exists(), "who was answered may rely on it");
    hosts.signal(Signal::KILL);
    drop(hosts.first.wait());
    for file in files(&folder) {
        fs::remove_file(file).unwrap();
    }
    for file in files(aside.path()) {
        fs::rename(&file, folder.join(file.file_name().unwrap())).unwrap();
    }
    hosts.restart().await;
    let status = hosts.status("shop").await;
    assert_eq!((&status["phase"], &status["share"]), (&json!("rolled-back"), &json!(0)), "{status}");

    // A marker that is gone comes back, with its folder.
    hosts.signal(Signal::KILL);
    drop(hosts.first.wait());
    fs::remove_dir_all(folder.join(".cutover")).unwrap();
    let before = hosts.log().len();
    hosts.restart().await;
    hosts.until_logged(before, "the rollback had no marker").await;
    assert!(marker.exists());
    let before = hosts.log().len();
    fs::remove_dir_all(folder.join(".cutover")).unwrap();
    hosts.until_logged(before, "of the markers was gone, and is made again, with the marker of the rollback").await;
    assert!(marker.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_without_v1_in_a_ramp_is_refused_and_the_old_host_goes_on() {
    let mut hosts = PLAIN.start().await;
    let mut kept = hosts.connect().await;
    let file = hosts.folder.path().join("cutover.toml");
    let mut text = fs::read_to_string(&file).unwrap();
    let v1 = text.find("[migrations.shop.v1]").unwrap()..text.find("[migrations.shop.v2]").unwrap();
    text.replace_range(v1, "");
    fs::write(&file, text).unwrap();
    let before = hosts.log().len();
    hosts.signal(Signal::USR2);
    let log = hosts.until_logged(before, "no successor, so this host goes on").await;
    assert!(log.contains("`migrations.shop.v1` is left out, but shop is ramping with 50% on V2"), "{log}");
    assert!(hosts.first.try_wait().unwrap().is_none());
    assert_eq!(kept.send(get("/", &[])).await.unwrap().0, 200);
    assert_eq!(hosts.status("shop").await["share"], 500_000);
}
