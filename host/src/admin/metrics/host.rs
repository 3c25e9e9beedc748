//! What the host shows of itself: what it is, what its process uses, what became of notices and of the store.

use rustix::process::{Resource, getrlimit};

use super::{Scrape, Value, float};
use crate::host::Host;
use cutover_traffic::pool::{resources::Usage, upstream::UpstreamView};

impl Scrape {
    pub(super) fn host(&mut self, host: &Host) {
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        self.gauge("cutover_build_info", "The release of the host", version, 1.0);
        self.process(host);
        let notices = host.notices.read();
        for (severity, count) in notices.by_severity {
            let labels = vec![("severity", severity.to_owned())];
            self.counter("cutover_notices", "Notices since the host began", labels, count);
        }
        let help = "Notices that a webhook did not get";
        self.counter("cutover_notices_undelivered", help, Vec::new(), notices.undelivered);
        let help = "Records that the store did not take, and looks that found it in trouble";
        self.counter("cutover_store_failures", help, Vec::new(), host.store.failures());
        let takes = f64::from(u8::from(host.store.trouble().is_none()));
        self.gauge("cutover_store_takes_records", "1 if the store takes records", Vec::new(), takes);
    }

    /// By the names that all programs have for it.
    fn process(&mut self, host: &Host) {
        let begun = float(host.began.0) / 1e3;
        self.gauge("process_start_time_seconds", "When the host began, in Unix time", Vec::new(), begun);
        let most = getrlimit(Resource::Nofile).current;
        if let Some(most) = most {
            self.gauge("process_max_fds", "Descriptors that the host may have open", Vec::new(), float(most));
        }
        let Some(used) = Usage::of(std::process::id()) else { return };
        let cpu = Value::Sum(used.cpu.as_secs_f64());
        self.push("process_cpu_seconds", "Processor time of the host, without its workers", Vec::new(), cpu);
        let resident = float(used.rss_bytes);
        self.gauge("process_resident_memory_bytes", "Memory of the host, without its workers", Vec::new(), resident);
        if let Some(open) = used.descriptors {
            self.gauge("process_open_fds", "Descriptors that the host has open", Vec::new(), open.into());
        }
        self.gauge("process_threads", "Threads of the host", Vec::new(), used.threads.into());
    }

    pub(super) fn upstreams(&mut self, labels: &[(&'static str, String)], pool: &UpstreamView) {
        for member in &pool.upstreams {
            let here = || labels.iter().cloned().chain([("upstream", member.address.clone())]).collect();
            let usable = f64::from(u8::from(member.usable));
            self.gauge("cutover_upstream_up", "1 if the upstream is sent requests", here(), usable);
            let help = "Requests and streams that the upstream has";
            self.gauge("cutover_upstream_in_flight", help, here(), float(member.in_flight as u64));
        }
    }
}
