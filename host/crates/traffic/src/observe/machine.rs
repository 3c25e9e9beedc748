//! How busy the machine is: processor and memory, from `/proc` (proc(5)).

use parking_lot::Mutex;

use cutover_model::facts::Gauge;

/// Samples the machine; shared by all migrations of a host.
#[derive(Debug, Default)]
pub struct Machine(Mutex<Option<Jiffies>>);

/// Processor time since boot, in jiffies.
#[derive(Debug, Clone, Copy)]
struct Jiffies {
    busy: u64,
    total: u64,
}

impl Machine {
    /// `host.cpu-ppm` since the last sample and `host.memory-ppm` now. What cannot be read is left out.
    pub fn sample(&self) -> Vec<Gauge> {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let now = jiffies(&read("/proc/stat"));
        let before = std::mem::replace(&mut *self.0.lock(), now);
        let cpu = before.zip(now).and_then(|(before, now)| {
            ppm(now.busy.saturating_sub(before.busy), now.total.saturating_sub(before.total))
        });
        let memory = memory_ppm(&read("/proc/meminfo"));
        [("host.cpu-ppm", cpu), ("host.memory-ppm", memory)]
            .into_iter()
            .filter_map(|(name, value)| Some(Gauge { name: name.into(), value: value? }))
            .collect()
    }
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal.
fn jiffies(stat: &str) -> Option<Jiffies> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_whitespace().take(8).map_while(|f| f.parse().ok()).collect();
    let idle = fields.get(3)? + fields.get(4)?;
    let total = fields.iter().sum();
    Some(Jiffies { busy: total - idle, total })
}

fn memory_ppm(meminfo: &str) -> Option<i64> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|l| l.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok()
    };
    let total = field("MemTotal")?;
    ppm(total.saturating_sub(field("MemAvailable")?), total)
}

fn ppm(part: u64, whole: u64) -> Option<i64> {
    i64::try_from((u128::from(part) * 1_000_000).checked_div(u128::from(whole))?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_as_their_manual_says() {
        let j = jiffies("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3\n").unwrap();
        assert_eq!((j.busy, j.total), (200, 1_000));
        assert_eq!(memory_ppm("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 400 kB\n"), Some(600_000));
        assert!(jiffies("").is_none() && memory_ppm("").is_none());
    }

    #[test]
    fn this_machine_can_be_sampled() {
        let machine = Machine::default();
        assert_eq!(machine.sample().len(), 1, "there is no rate from one sample");
        let both = machine.sample();
        assert!(both.iter().all(|g| (0..=1_000_000).contains(&g.value)), "{both:?}");
    }
}
