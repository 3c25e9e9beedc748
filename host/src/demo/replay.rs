//! Asks every question of the demo again, on an engine of its own, and compares.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use super::{DemoError, MIGRATION};
use crate::app::App;
use cutover_model::causes::chain;
use cutover_policy_host::{
    engine::{Engine, Limits},
    record::Call,
    replay,
};
use cutover_store::calls::Wanted;

/// Calls that are read at once.
const PAGE: u32 = 200;

/// How the replay went.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Replayed {
    /// Questions that were asked again: every decision of a policy, and every call in the log.
    pub calls: u64,
    /// Those with the same answer, memory and fuel, byte for byte.
    pub same: u64,
}

/// Replays everything on record.
pub(super) async fn all(app: &App) -> Result<Replayed, DemoError> {
    let store = &app.host.store;
    let decisions = store.decisions(MIGRATION, 1_000).await?;
    let mut calls: Vec<Call> = decisions.into_iter().filter_map(|decision| decision.inputs).collect();
    let mut before = None;
    loop {
        let wanted = Wanted { migration: Some(MIGRATION.into()), before, most: PAGE, ..Wanted::default() };
        let page = store.calls(&wanted).await?;
        calls.extend(page.calls.into_iter().map(|logged| logged.call));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    let mut components = BTreeMap::new();
    for call in &calls {
        if !components.contains_key(&call.digest) {
            let component = store.component(&call.digest).await?;
            let gone = || DemoError::Refused(format!("the component {} is gone", call.digest));
            components.insert(call.digest.clone(), component.ok_or_else(gone)?);
        }
    }
    let engine = Engine::new(Limits::default()).map_err(|e| DemoError::Refused(chain(&e)))?;
    let replayed = tokio::task::spawn_blocking(move || again(&engine, &calls, &components)).await;
    replayed.map_err(|e| DemoError::Refused(e.to_string()))
}

fn again(engine: &Arc<Engine>, calls: &[Call], components: &BTreeMap<String, Vec<u8>>) -> Replayed {
    let is_same = |call: &&Call| {
        let component = components.get(&call.digest)?;
        Some(replay::replay(engine, component, call).is_ok_and(|replayed| replayed.same))
    };
    let same = calls.iter().filter(|call| is_same(call) == Some(true)).count();
    Replayed { calls: calls.len() as u64, same: same as u64 }
}
