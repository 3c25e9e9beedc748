//! How a host ends: at once with all that it has, or in parts, while another takes over.

use std::{io, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::mpsc,
    time::{timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{App, changes, sockets::Sockets};
use crate::host::{Migration, Plane};
use cutover_model::clock;
use cutover_traffic::{
    ingress::transfer::Carried,
    observe::recorder::Measured,
    pool::{Pool, UpstreamPool},
};

/// How often it is looked whether a store that refused records can be had.
const RETRY: Duration = Duration::from_secs(1);

/// How long the store waits for the last of what goes on record besides decisions: it is history, not state.
const LAST_RECORDS: Duration = Duration::from_secs(5);

impl App {
    /// Stops accepting, lets requests end, stops controllers and workers, closes the store.
    pub async fn shut_down(mut self) {
        tracing::info!("draining");
        self.sockets = None;
        self.left = None;
        self.ends.shutdown.cancel();
        self.serving.close();
        tokio::join!(self.release(), self.end_serving());
        self.finish().await;
        tracing::info!("stopped");
    }

    /// Further handles of the sockets that it listens at.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn sockets(&self) -> io::Result<Sockets> {
        let sockets = self.sockets.as_ref().ok_or_else(|| io::Error::other("the host has stopped listening"))?;
        sockets.try_clone()
    }

    /// Waits until a store that has refused records since the host began can be had; for ever, if it refuses none.
    pub async fn store_can_be_had(&self) {
        if self.host.store.refuses().is_none() {
            return std::future::pending().await;
        }
        let mut tries = tokio::time::interval(RETRY);
        let mut told = false;
        loop {
            tries.tick().await;
            if !self.host.store.could_be_had().await {
                continue;
            }
            // A host that begins again with it would be refused, and end; this one serves.
            let migrations = self.host.migrations.iter().filter(|(_, migration)| migration.split.v1.is_absent());
            let absent = migrations.map(|(name, _)| name.as_str());
            let Some(refused) = changes::needs_v1(self.host.store.path(), absent).await else { return };
            if !std::mem::replace(&mut told, true) {
                tracing::error!("the store can be had, and this host goes on without it: {refused}");
            }
        }
    }

    /// Why this host leaves nothing to a successor: that would begin with another store, or none, and undo what people have
    /// decided. One that began without a store has nothing to undo.
    pub async fn keeps_store(&self) -> Option<String> {
        let store = &self.host.store;
        if store.refuses().is_some() {
            return None;
        }
        store.look(true).await;
        store.trouble().map(|trouble| trouble.why.clone())
    }

    /// Pools that let requests in.
    pub fn open_pools(&self) -> Vec<String> {
        self.pools().filter(|pool| pool.is_open()).map(|pool| pool.label().to_owned()).collect()
    }

    /// Whether it does calls of operations, which need the store.
    pub fn does_operations(&self) -> bool {
        self.host.migrations.values().any(|migration| matches!(migration.plane, Plane::Operations(_)))
    }

    /// Stops accepting, and gives away every connection that can be given away, as soon as it has nothing under way.
    /// Returns when no further request is taken from an idle one. The host keeps handles of its sockets.
    pub async fn leave(&mut self) -> mpsc::Receiver<Carried> {
        self.ends.leave.cancel();
        self.ends.told.close();
        self.ends.told.wait().await;
        self.left.take().unwrap_or_else(|| mpsc::channel(1).1)
    }

    /// Ends connections that wait to be given away, if no host takes them.
    pub fn nobody_takes(&self) -> CancellationToken {
        self.ends.shutdown.clone()
    }

    /// Ends what needs the store, and closes it: calls of operations, after those under way, and the tasks that decide.
    /// Requests to upstreams go on, under the last plan.
    pub async fn release(&self) {
        let longest = self.host.migrations.values().map(Migration::longest_deadline).max().unwrap_or_default();
        self.calls.close();
        if timeout(longest, self.calls.wait()).await.is_err() {
            tracing::warn!("calls of operations took longer than their deadline");
        }
        self.background_stop.cancel();
        self.deciding.close();
        self.deciding.wait().await;
        // Nobody waits for what workers still do now: mirrored calls.
        self.pools().filter(|pool| pool.workers().is_some()).for_each(Pool::close);
        self.recording.close();
        self.administering.close();
        let last = async { tokio::join!(self.recording.wait(), self.administering.wait()) };
        if timeout(LAST_RECORDS, last).await.is_err() {
            tracing::warn!("something is still being recorded or asked of the admin plane; it is lost");
        }
        self.host.store.close().await;
    }

    /// Waits for what was not given away, at most as long as the pools' settings say, and ends what is left of the host.
    pub async fn drain(mut self) {
        self.sockets = None;
        self.serving.close();
        self.end_serving().await;
        self.finish().await;
    }

    /// Waits until the threads that serve have ended: connections when their exchanges have, and long ones when they are
    /// told to.
    async fn end_serving(&self) {
        let served = CancellationToken::new();
        let upstreams = self.pools().filter_map(Pool::upstreams).chain(&self.otherwise);
        let ends = join_all(upstreams.map(|pool| end_in_time(pool, &served)));
        let threads = async {
            self.serving.wait().await;
            served.cancel();
        };
        tokio::join!(threads, ends);
    }

    /// Stops the pools and waits for everything that runs.
    async fn finish(self) {
        self.ends.shutdown.cancel();
        if let Some(pool) = &self.otherwise {
            pool.shut_down().await;
        }
        join_all(self.pools().map(Pool::shut_down)).await;
        self.working.close();
        self.working.wait().await;
        self.administering.wait().await;
        for (name, migration) in &self.host.migrations {
            let split = &migration.split;
            let measured = Measured {
                share: split.router.share(),
                v1: split.v1.members_now(),
                v2: split.v2.members_now(),
                gauges: Vec::new(),
            };
            let batch = split.recorder.cut(clock::unix_ms(), measured);
            let calls = batch.operations.iter().map(|calls| calls.v1.requests + calls.v2.requests).sum::<u64>();
            if calls > 0 {
                tracing::info!(migration = name, calls, "answered after the store was closed; not on record");
            }
        }
        let Self { host, background, .. } = self;
        // With the last migration go the queues that background tasks live on.
        drop(host);
        background.close();
        background.wait().await;
    }

    fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.host.migrations.values().flat_map(|migration| [&migration.split.v1, &migration.split.v2])
    }
}

/// Tells a pool's streams to end when it is time, and gives up what is left when it is over; unless all are `served`
/// before. A pool that has nothing to do is not stopped before: a request may be on its way to it.
async fn end_in_time(pool: &UpstreamPool, served: &CancellationToken) {
    let (start, spec) = (clock::mono(), pool.spec());
    let (streams, all) = (start + spec.stream_timeout, start + spec.drain_timeout);
    if timeout_at(streams.min(all).timer(), served.cancelled()).await.is_ok() {
        return;
    }
    pool.end_streams();
    if timeout_at(all.timer(), served.cancelled()).await.is_err() {
        pool.stop();
    }
}
