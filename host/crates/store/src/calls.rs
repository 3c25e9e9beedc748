//! The log of what policies were asked and what they said.
//!
//! What rollback and stages policies look at is large and the same for both and for their candidates, so it is stored
//! once, with the check of the same time. The log is read in pages that are bounded by calls and by bytes, and that say
//! whether there is more: how many calls a page has says nothing about it, because those whose check is gone are left out.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::{Any, Row as _, Transaction, any::AnyRow};

use super::{Store, StoreError, database::flag, memories, packed, sql_ms};
use cutover_model::{
    clock::UnixMs,
    port::{Check, Kind, Progress, Verdict},
};
use cutover_policy_host::record::{Call, Memory, Question, Role};

/// A recorded call, as the log has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// Its number in this store; a later call has a higher one.
    pub id: i64,
    /// The name of the migration whose policy was asked.
    pub migration: String,
    /// The question, the answer, and what is needed to ask it again.
    #[serde(flatten)]
    pub call: Call,
}

/// Rows that are read at once: each has up to two memories of 64 KiB.
const ROWS: u32 = 16;

/// The longest answer that is not packed, in bytes.
const SHORT: usize = 256;

/// The most bytes that an answer unpacks to: several times what may cross from guest to host.
const MAX_ANSWER: u64 = 256 << 20;

/// Rows that one statement removes, so that decisions get a turn in between.
const REMOVED_AT_ONCE: u32 = 500;

/// One page of the log, newest call first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The calls of this page. There may be fewer than were asked for, even none, and yet more to come.
    pub calls: Vec<Logged>,
    /// What `before` has to be for the calls that follow; none at the end of the log.
    pub next: Option<i64>,
    /// Calls between the first and the last of this page that are left out, because their check is not kept any more.
    pub left_out: u32,
    /// When the oldest call that is kept was made, of all migrations; what is older is gone. As the admin plane tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_from: Option<UnixMs>,
}

/// Which calls of the log are wanted, and how many at once.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The migration whose calls are wanted; none for all migrations.
    pub migration: Option<String>,
    /// The kind of policy whose calls are wanted; none for all kinds.
    pub kind: Option<Kind>,
    /// The number of the only call that is wanted; none for any.
    pub id: Option<i64>,
    /// Only those before this number; the newest without it.
    pub before: Option<i64>,
    /// At most so many are looked at.
    pub most: u32,
    /// At most so many bytes of JSON, but at least one call; none for any number of bytes.
    pub max_bytes: Option<usize>,
}

/// What is left of a question without its check.
#[derive(Debug, Serialize, Deserialize)]
struct Rest {
    verdict: Verdict,
    forced: bool,
}

impl Store {
    /// Records calls. The checks that they are about are recorded by [`Store::record_check`].
    ///
    /// # Errors
    /// When none of them was recorded.
    pub async fn log_calls(&self, migration: &str, calls: &[Call]) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        for call in calls {
            log_call(&mut tx, migration, call).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// A page of calls, newest first. A call whose check is not kept any more is left out.
    ///
    /// # Errors
    /// When the store fails or what it has cannot be read.
    pub async fn calls(&self, wanted: &Wanted) -> Result<Page, StoreError> {
        let mut page = Page::default();
        let (mut before, mut left, mut bytes) = (wanted.before, wanted.most, 0);
        loop {
            // One more than there is room for: whether it is there is what `next` says.
            let rows = self.rows(wanted, before, left.saturating_add(1).min(ROWS)).await?;
            if rows.is_empty() {
                return Ok(page);
            }
            for row in &rows {
                page.next = before;
                if left == 0 {
                    return Ok(page);
                }
                let Some(logged) = self.read(row).await? else {
                    page.left_out += 1;
                    (before, left) = (Some(row.try_get("id")?), left - 1);
                    continue;
                };
                if let Some(most) = wanted.max_bytes {
                    bytes += written(&logged)?;
                    if bytes > most && !page.calls.is_empty() {
                        return Ok(page);
                    }
                }
                (before, left) = (Some(logged.id), left - 1);
                page.calls.push(logged);
            }
            page.next = None;
        }
    }

    /// The next rows, newest first.
    async fn rows(&self, wanted: &Wanted, before: Option<i64>, most: u32) -> Result<Vec<AnyRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT p.*, s.settings FROM policy_calls p JOIN policy_settings s ON s.digest = p.settings_digest \
             WHERE ($1 IS NULL OR p.migration = $1) AND ($2 IS NULL OR p.kind = $2) AND ($3 IS NULL OR p.id = $3) \
             AND ($4 IS NULL OR p.id < $4) ORDER BY p.id DESC LIMIT $5",
        )
        .bind(&wanted.migration)
        .bind(wanted.kind.map(Kind::name))
        .bind(wanted.id)
        .bind(before)
        .bind(i64::from(most));
        Ok(rows.fetch_all(&self.pool).await?)
    }

    /// A call with its check; none if that is gone.
    async fn read(&self, row: &AnyRow) -> Result<Option<Logged>, StoreError> {
        let check = match row.try_get::<Option<i64>, _>("check_at")? {
            None => None,
            Some(at) => match self.check_at(row.try_get("migration")?, at).await? {
                Some(check) => Some(check),
                None => return Ok(None),
            },
        };
        let mut logged = Logged::from_row(row, check)?;
        // Calls from before have theirs in their own row.
        if logged.call.memory.0.is_empty() {
            logged.call.memory = Memory(self.memory(row.try_get("memory_id")?).await?);
        }
        if logged.call.memory_after.0.is_empty() {
            logged.call.memory_after = Memory(self.memory(row.try_get("memory_after_id")?).await?);
        }
        Ok(Some(logged))
    }

    /// The check of a moment, if it is still kept.
    async fn check_at(&self, migration: &str, at: i64) -> Result<Option<Check>, StoreError> {
        let at = UnixMs(u64::try_from(at).unwrap_or(0));
        let found = self.checks(migration, at, UnixMs(at.0.saturating_add(1)), 0, 1).await?;
        Ok(found
            .into_iter()
            .next()
            .map(cutover_policy_host::history::Stored::read)
            .transpose()?
            .map(|recorded| recorded.check))
    }

    /// Removes calls from before `before`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn forget_calls(&self, before: UnixMs) -> Result<u64, StoreError> {
        let mut removed = 0;
        loop {
            let some = "DELETE FROM policy_calls WHERE id IN (SELECT id FROM policy_calls WHERE at < $1 LIMIT $2)";
            let some = sqlx::query(some)
                .bind(sql_ms(before))
                .bind(i64::from(REMOVED_AT_ONCE))
                .execute(&self.pool)
                .await?
                .rows_affected();
            removed += some;
            if some < REMOVED_AT_ONCE.into() {
                break;
            }
        }
        self.forget_memories(before).await?;
        Ok(removed)
    }
}

/// The bytes of a call as JSON, which are not kept.
fn written(logged: &Logged) -> Result<usize, StoreError> {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, logged)?;
    Ok(count.0)
}

async fn log_call(tx: &mut Transaction<'_, Any>, migration: &str, call: &Call) -> Result<(), StoreError> {
    let settings_digest = hex::encode(Sha256::digest(call.settings.as_bytes()));
    sqlx::query("INSERT INTO policy_settings (digest, settings) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(&settings_digest)
        .bind(&call.settings)
        .execute(&mut **tx)
        .await?;
    let (kind, check_at, question) = match &call.question {
        Question::Rollback(check) => ("rollback", Some(check.now_ms), Value::Null),
        Question::Stages(progress) if progress.forced => ("stages", None, serde_json::to_value(progress)?),
        Question::Stages(progress) => {
            let rest = Rest { verdict: progress.verdict, forced: progress.forced };
            ("stages", Some(progress.check.now_ms), serde_json::to_value(rest)?)
        }
        Question::Routing(situation) => ("routing", None, serde_json::to_value(situation)?),
        Question::Decide(frame) => ("decide", None, serde_json::to_value(frame)?),
    };
    let memory = memories::keep(tx, &call.memory.0, None, call.at).await?;
    let memory_after = memories::keep(tx, &call.memory_after.0, memory, call.at).await?;
    let (answer, packed_answer) = match call.answer.to_string() {
        short if short.len() <= SHORT => (short, None),
        long => (String::new(), Some(packed::alone(long.as_bytes()))),
    };
    sqlx::query(
        "INSERT INTO policy_calls (migration, at, kind, role, policy, digest, wasi_stub, settings_digest, check_at, question, \
         memory, memory_after, memory_id, memory_after_id, answer, packed_answer, fuel, took_us) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
    )
    .bind(migration)
    .bind(sql_ms(call.at))
    .bind(kind)
    .bind(call.role.name())
    .bind(&call.policy)
    .bind(&call.digest)
    .bind(call.wasi_stub)
    .bind(settings_digest)
    .bind(check_at.map(sql_ms))
    .bind(question.to_string())
    .bind(Vec::new())
    .bind(Vec::new())
    .bind(memory)
    .bind(memory_after)
    .bind(answer)
    .bind(packed_answer)
    .bind(i64::try_from(call.fuel).unwrap_or(i64::MAX))
    .bind(i64::try_from(call.took_us).unwrap_or(i64::MAX))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

impl Logged {
    fn from_row(row: &AnyRow, check: Option<Check>) -> Result<Self, StoreError> {
        let unsigned = |column| Ok::<_, StoreError>(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0));
        let text = row.try_get::<&str, _>("question")?;
        let question = match (row.try_get::<&str, _>("kind")?, check) {
            ("rollback", Some(check)) => Question::Rollback(check),
            ("stages", Some(check)) => {
                let Rest { verdict, forced } = serde_json::from_str(text)?;
                Question::Stages(Progress { check, verdict, forced })
            }
            ("stages", None) => Question::Stages(serde_json::from_str(text)?),
            ("decide", _) => Question::Decide(serde_json::from_str(text)?),
            (_, _) => Question::Routing(serde_json::from_str(text)?),
        };
        let id = row.try_get("id")?;
        let answer = match row.try_get::<Option<&[u8]>, _>("packed_answer")? {
            None => serde_json::from_str(row.try_get("answer")?)?,
            Some(answer) => {
                let unreadable = |source| StoreError::Answer { id, source };
                serde_json::from_slice(&packed::read_alone(answer, MAX_ANSWER).map_err(unreadable)?)?
            }
        };
        let role = if row.try_get::<&str, _>("role")? == Role::Active.name() { Role::Active } else { Role::Candidate };
        let call = Call {
            at: UnixMs(unsigned("at")?),
            role,
            policy: row.try_get("policy")?,
            digest: row.try_get("digest")?,
            wasi_stub: flag(row, "wasi_stub")?,
            settings: row.try_get("settings")?,
            question,
            memory: Memory(row.try_get("memory")?),
            answer,
            memory_after: Memory(row.try_get("memory_after")?),
            fuel: unsigned("fuel")?,
            took_us: unsigned("took_us")?,
        };
        Ok(Self { id, migration: row.try_get("migration")?, call })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
    use tempfile::TempDir;

    use super::*;
    use cutover_policy_host::history::synthetic::Synthetic;

    /// A store with calls about checks that it has, two for each.
    async fn store(checks: u64) -> (TempDir, Store, Vec<UnixMs>) {
        let folder = TempDir::new().unwrap();
        let store = Store::open(&folder.path().join("test.db")).await.unwrap();
        let mut moments = Vec::new();
        for recorded in (Synthetic { checks, batches: 5, ..Synthetic::default() }) {
            let check = recorded.check;
            store
                .record_check("mine", &check, None, &<(i64, cutover_traffic::observe::marks::Marks)>::default())
                .await
                .unwrap();
            moments.push(check.now_ms);
            let progress = Progress { check: check.clone(), verdict: Verdict::Healthy, forced: false };
            let calls = [Question::Rollback(check), Question::Stages(progress)].map(|question| Call {
                at: question.now().unwrap(),
                role: Role::Active,
                policy: "p@1.0.0".into(),
                digest: "00".into(),
                wasi_stub: false,
                settings: "{}".into(),
                question,
                memory: Memory(b"before".to_vec()),
                answer: json!({ "ok": {} }),
                memory_after: Memory(b"after".to_vec()),
                fuel: 1,
                took_us: 1,
            });
            store.log_calls("mine", &calls).await.unwrap();
        }
        (folder, store, moments)
    }

    fn of(most: u32, max_bytes: Option<usize>) -> Wanted {
        Wanted { migration: Some("mine".into()), most, max_bytes, ..Wanted::default() }
    }

    /// Follows the pages to the end.
    async fn pages(store: &Store, mut wanted: Wanted) -> Vec<Page> {
        let mut pages = Vec::new();
        loop {
            let page = store.calls(&wanted).await.unwrap();
            wanted.before = page.next;
            pages.push(page);
            if wanted.before.is_none() {
                return pages;
            }
        }
    }

    fn numbers(pages: &[Page]) -> Vec<i64> {
        pages.iter().flat_map(|page| &page.calls).map(|logged| logged.id).collect()
    }

    #[tokio::test]
    async fn pages_of_any_size_have_every_call_once_and_say_where_the_log_ends() {
        let (_folder, store, _) = store(20).await;
        let all: Vec<_> = (1..=40).rev().collect();
        for (most, expected) in [(1, 40), (7, 6), (16, 3), (20, 2), (39, 2), (40, 1), (41, 1), (1_000, 1)] {
            let pages = pages(&store, of(most, None)).await;
            assert_eq!((pages.len(), numbers(&pages)), (expected, all.clone()), "{most}");
        }
        let none = Wanted { migration: Some("nobody".into()), ..of(10, None) };
        assert_eq!(store.calls(&none).await.unwrap(), Page::default());
        let one = Wanted { id: Some(3), ..of(1, None) };
        assert_eq!(numbers(&pages(&store, one).await), [3]);
    }

    #[tokio::test]
    async fn a_page_ends_before_it_is_too_large_and_has_at_least_one_call() {
        let (_folder, store, _) = store(10).await;
        let all: Vec<_> = (1..=20).rev().collect();
        let size = |page: &Page| serde_json::to_vec(page).unwrap().len();
        let whole = size(&pages(&store, of(1_000, None)).await[0]);
        let most = whole / 4;
        let some = pages(&store, of(1_000, Some(most))).await;
        assert_eq!(numbers(&some), all);
        assert!((4..=6).contains(&some.len()), "{}", some.len());
        // But for the commas and the fields around the calls.
        assert!(some.iter().all(|page| size(page) < most + 200));
        let single = pages(&store, of(1_000, Some(1))).await;
        assert_eq!((single.len(), numbers(&single)), (20, all));
    }

    #[tokio::test]
    async fn calls_whose_checks_are_gone_do_not_end_the_log() {
        let (_folder, store, moments) = store(20).await;
        // What routing policies were asked has no check, and is older than any check that is kept.
        let frame = |call: &Logged| Call { question: Question::Decide(Memory(vec![1])), ..call.call.clone() };
        let newest = store.calls(&of(1, None)).await.unwrap();
        store.log_calls("mine", &[frame(&newest.calls[0])]).await.unwrap();
        sqlx::query("UPDATE policy_calls SET id = 0 WHERE kind = 'decide'").execute(&store.pool).await.unwrap();
        store.forget_checks(moments[15]).await.unwrap();
        for most in [1, 4, 10, 1_000] {
            let pages = pages(&store, of(most, None)).await;
            let kept: Vec<_> = (31..=40).rev().chain([0]).collect();
            assert_eq!(numbers(&pages), kept, "{most}");
            assert_eq!(pages.iter().map(|page| page.left_out).sum::<u32>(), 30);
        }
        let empty = store.calls(&Wanted { before: Some(31), ..of(10, None) }).await.unwrap();
        assert_eq!((empty.calls.len(), empty.left_out, empty.next), (0, 10, Some(21)), "not the end");
    }

    /// Calls of one policy whose memory changes a little each time, as a judge's does.
    fn judged(n: u64) -> Call {
        let memory = |n: u64| {
            let fields = (0..200)
                .map(|field| format!("\"f{field}\":0.{}", (field * 7_919 + n * u64::from(field % 20 == 0)) % 99_991));
            Memory(format!("{{{}}}", fields.collect::<Vec<_>>().join(",")).into_bytes())
        };
        Call {
            at: UnixMs(1_000_000 + n * 5_000),
            role: Role::Active,
            policy: "p@1.0.0".into(),
            digest: "00".into(),
            wasi_stub: false,
            settings: "{}".into(),
            question: Question::Decide(Memory(vec![1])),
            memory: memory(n),
            answer: json!({ "ok": { "notes": "the same words again and again, ".repeat(20) } }),
            memory_after: memory(n + 1),
            fuel: 1,
            took_us: 1,
        }
    }

    #[tokio::test]
    async fn what_a_policy_remembers_is_kept_once_and_comes_back() {
        let (_folder, store, _) = store(0).await;
        let calls: Vec<_> = (0..300).map(judged).collect();
        for call in &calls {
            store.log_calls("mine", std::slice::from_ref(call)).await.unwrap();
        }
        let read = store.calls(&of(1_000, None)).await.unwrap().calls;
        assert_eq!(read.iter().rev().map(|logged| logged.call.clone()).collect::<Vec<_>>(), calls);
        let kept: (i64, i64) =
            sqlx::query_as("SELECT COUNT(*), SUM(length(packed)) FROM memories").fetch_one(&store.pool).await.unwrap();
        let plain: usize = calls.iter().map(|call| call.memory.0.len() + call.memory_after.0.len()).sum();
        assert_eq!(kept.0, 301, "one for each that there was");
        assert!(usize::try_from(kept.1).unwrap() * 10 < plain, "{} of {plain} bytes", kept.1);
    }

    #[tokio::test]
    async fn memories_go_with_the_last_call_that_names_them_and_not_before() {
        let (_folder, store, _) = store(0).await;
        let hours = |n: u64| n * 3_600_000;
        // The first is what all others follow, and every third call is about it again.
        for n in 0..60 {
            let mut call = judged(if n % 3 == 0 { 0 } else { n });
            call.at = UnixMs(hours(100 + n));
            store.log_calls("mine", &[call]).await.unwrap();
        }
        let count = async || {
            sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM memories").fetch_one(&store.pool).await.unwrap()
        };
        let before = count().await;
        for cut in [110, 130, 155, 159] {
            store.forget_calls(UnixMs(hours(cut))).await.unwrap();
            let left = store.calls(&of(1_000, None)).await.unwrap();
            assert_eq!((left.calls.len() as u64, left.left_out), (160 - cut, 0));
        }
        assert!(count().await < before / 4, "{} of {before}", count().await);
    }

    #[tokio::test]
    async fn calls_of_a_host_from_before_are_read_as_they_were() {
        let (_folder, store, _) = store(0).await;
        let call = judged(3);
        store.log_calls("mine", std::slice::from_ref(&call)).await.unwrap();
        let old = "UPDATE policy_calls SET memory = $1, memory_after = $2, answer = $3, memory_id = NULL, memory_after_id = NULL, packed_answer = NULL";
        sqlx::query(old)
            .bind(&call.memory.0)
            .bind(&call.memory_after.0)
            .bind(call.answer.to_string())
            .execute(&store.pool)
            .await
            .unwrap();
        sqlx::query("DELETE FROM memories").execute(&store.pool).await.unwrap();
        assert_eq!(store.calls(&of(10, None)).await.unwrap().calls[0].call, call);
    }

    #[tokio::test]
    async fn a_store_from_before_gets_its_new_tables_and_keeps_its_calls() {
        let folder = TempDir::new().unwrap();
        let (path, call) = (folder.path().join("old.db"), judged(3));
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let mut old = SqliteConnection::connect_with(&options).await.unwrap();
        let mut before = sqlx::migrate!("migrations/sqlite");
        before.migrations.to_mut().retain(|migration| migration.version < 10);
        before.run(&mut old).await.unwrap();
        let Question::Decide(frame) = &call.question else { panic!("{call:?}") };
        sqlx::query("INSERT INTO policy_settings (digest, settings) VALUES ('s', '{}')")
            .execute(&mut old)
            .await
            .unwrap();
        let row = "INSERT INTO policy_calls (migration, at, kind, role, policy, digest, wasi_stub, settings_digest, question, \
                   memory, answer, memory_after, fuel, took_us) \
                   VALUES ('mine', $1, 'decide', 'active', 'p@1.0.0', '00', 0, 's', $2, $3, $4, $5, 1, 1)";
        sqlx::query(row)
            .bind(sql_ms(call.at))
            .bind(serde_json::to_string(frame).unwrap())
            .bind(&call.memory.0)
            .bind(call.answer.to_string())
            .bind(&call.memory_after.0)
            .execute(&mut old)
            .await
            .unwrap();
        old.close().await.unwrap();
        let store = Store::open(&path).await.unwrap();
        assert_eq!(store.calls(&of(10, None)).await.unwrap().calls[0].call, call);
        store.log_calls("mine", &[judged(4)]).await.unwrap();
        assert_eq!(store.calls(&of(10, None)).await.unwrap().calls[0].call, judged(4));
    }

    #[tokio::test]
    async fn a_store_that_is_too_large_loses_the_oldest_calls_and_checks_and_never_the_last_hour() {
        let (_folder, store, _) = store(0).await;
        let last = UnixMs(50_000_000_000);
        for n in 0..400_u64 {
            // Incompressible, as a hostile policy would have it.
            let chance = (0..2_000_u64)
                .flat_map(|i| sha2::Sha256::digest((n * 2_000 + i).to_le_bytes())[..8].to_vec())
                .collect();
            let mut call = Call { memory_after: Memory(chance), memory: Memory(Vec::new()), ..judged(n) };
            call.at = UnixMs(last.0 - (399 - n) * 60_000);
            store.log_calls("mine", &[call]).await.unwrap();
        }
        let before = store.bytes().await.unwrap();
        assert!(before > 400 * 16_000, "{before}");
        let left = store.fit(before / 2, last).await.unwrap();
        assert!(left.bytes <= before / 2 && left.rows[0] > 100 && left.rows[0] < 400, "{left:?}");
        let kept = store.calls(&of(1_000, None)).await.unwrap().calls;
        assert_eq!((kept[0].call.at, kept.len() as u64), (last, 400 - left.rows[0]));
        assert!(kept.iter().all(|logged| logged.call.memory_after.0.len() == 16_000), "what is kept is whole");
        let smallest = store.fit(1, last).await.unwrap();
        assert_eq!(store.calls(&of(1_000, None)).await.unwrap().calls.len(), 61, "{smallest:?}");
        assert_eq!((store.removed(crate::room::Removed::Calls), store.last_bytes().1), (339, true));
        let oldest = store.oldest_call().await.unwrap().unwrap();
        assert_eq!(last.since(oldest).as_secs(), 3_600);
    }
}
