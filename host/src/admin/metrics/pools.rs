//! What pools of workers show: the last minute of each pool, and each worker by its slot.

use super::{Scrape, float, seconds};
use cutover_traffic::pool::{
    breaker::Position,
    workers::{PoolView, WorkerView},
};

type Labels = [(&'static str, String)];

impl Scrape {
    pub(super) fn pool(&mut self, labels: &Labels, pool: &PoolView) {
        for (state, count) in &pool.states {
            let here = with(labels, "state", (*state).to_owned());
            self.gauge("cutover_pool_workers", "Workers by state", here, float(*count as u64));
        }
        let load = pool.load;
        let used = load.utilisation_ppm.map(|ppm| f64::from(ppm) / 1e6);
        let growth = pool.memory_growth.filter(|trend| trend.mean > 0.0);
        let optional = [
            ("cutover_pool_utilisation", "Part of the workers' time in the last minute that they had calls", used),
            (
                "cutover_memory_growth_per_hour",
                "Growth of a worker's mean resident memory, as a part of it",
                growth.map(|trend| trend.per_hour / trend.mean),
            ),
            (
                "cutover_memory_growth_error_per_hour",
                "Standard error of that growth",
                growth.map(|trend| trend.standard_error / trend.mean),
            ),
        ];
        for (name, help, value) in optional {
            if let Some(value) = value {
                self.gauge(name, help, labels.to_vec(), value);
            }
        }
        for (percentile, us) in [("50", load.wait_p50_us), ("99", load.wait_p99_us)] {
            let help = "How long calls waited for a worker in the last minute";
            self.gauge(
                "cutover_queue_wait_seconds",
                help,
                with(labels, "percentile", percentile.to_owned()),
                seconds(us),
            );
        }
        let always = [
            (
                "cutover_pool_created_per_minute",
                "Workers that became ready in the last minute",
                load.created_per_minute,
            ),
            ("cutover_pool_ended_per_minute", "Workers that ended in the last minute", load.ended_per_minute),
            (
                "cutover_pool_restarts_spent",
                "1 if dead workers are replaced hardly ever",
                u64::from(pool.restarts_spent),
            ),
        ];
        for (name, help, value) in always {
            self.gauge(name, help, labels.to_vec(), float(value));
        }
        for (category, count) in &pool.failed_attempts {
            let here = with(labels, "category", (*category).to_owned());
            self.counter("cutover_failed_attempts", "Attempts of calls that failed", here, *count);
        }
        let help = "Workers that were killed because a call missed its deadline";
        self.counter("cutover_deadline_kills", help, labels.to_vec(), pool.deadline_kills);
        self.counter("cutover_retries", "Attempts beyond the first of their calls", labels.to_vec(), pool.retries);
        for breaker in &pool.breakers {
            let here = || with(labels, "operation", breaker.operation.to_string());
            let open = f64::from(u8::from(breaker.state == Position::Open));
            self.gauge("cutover_breaker_open", "1 if the operation is refused", here(), open);
            self.counter("cutover_breaker_refused", "Calls that the circuit breaker refused", here(), breaker.refused);
        }
        pool.workers.iter().filter(|worker| worker.pid.is_some()).for_each(|worker| self.worker(labels, worker));
    }

    fn worker(&mut self, labels: &Labels, worker: &WorkerView) {
        let here = || with(labels, "slot", worker.slot.to_string());
        let age = float(worker.age_ms) / 1e3;
        self.gauge("cutover_worker_age_seconds", "Time since the worker was started", here(), age);
        let Some(used) = worker.uses else { return };
        let cpu = used.usage.cpu.as_secs_f64();
        let mut values = vec![
            ("cutover_worker_rss_bytes", "Resident memory of a worker", float(used.usage.rss_bytes)),
            ("cutover_worker_cpu_seconds", "Processor time since the worker was started", cpu),
            ("cutover_worker_threads", "Threads of a worker", f64::from(used.usage.threads)),
        ];
        if let Some(descriptors) = used.usage.descriptors {
            values.push(("cutover_worker_descriptors", "Open descriptors of a worker", f64::from(descriptors)));
        }
        if let Some(ppm) = used.cpu_ppm {
            let share = f64::from(ppm) / 1e6;
            values.push(("cutover_worker_cpu_share", "Part of one processor in the last second", share));
        }
        for (name, help, value) in values {
            self.gauge(name, help, here(), value);
        }
    }
}

fn with(labels: &Labels, name: &'static str, value: String) -> Vec<(&'static str, String)> {
    let mut labels = labels.to_vec();
    labels.push((name, value));
    labels
}
