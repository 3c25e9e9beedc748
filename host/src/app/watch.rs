//! Watches whether the store is still the one that was opened and takes records, and tells people when that changes.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use cutover_control::notify::{Notice, Notifier};
use cutover_model::clock;
use cutover_store::Store;

/// The time between two looks: less than the shortest check interval that makes sense.
const LOOK: Duration = Duration::from_secs(1);

/// While all is well, something is written with each look of this number, too.
const WRITE_EVERY: u32 = 5;

/// Looks at the store each second, until `stop`.
pub(super) async fn watch(store: Store, notifier: Notifier, stop: CancellationToken) {
    let mut looks = tokio::time::interval(LOOK);
    // One that was in trouble from the beginning has said so.
    let mut known = store.trouble().is_some();
    for n in 0_u32.. {
        let writes = known || n.is_multiple_of(WRITE_EVERY);
        tokio::select! {
            () = stop.cancelled() => return,
            () = async {
                looks.tick().await;
                store.look(writes).await;
            } => {}
        }
        let trouble = store.trouble();
        if trouble.is_some() != known {
            known = trouble.is_some();
            notifier.notify(match trouble {
                Some(trouble) => {
                    notice("store-unusable", "critical", format!("nothing moves but rollbacks: {}", trouble.why))
                }
                None => notice("store-usable", "info", "the store takes records again".into()),
            });
        }
    }
}

/// A notice about the host, and no migration of it.
fn notice(event: &str, severity: &'static str, message: String) -> Notice {
    let (at, event) = (clock::unix_ms(), event.into());
    Notice { at, migration: String::new(), event, severity, message, findings: Vec::new() }
}
