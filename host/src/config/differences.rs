//! What one configuration has otherwise than another, as paths of fields. Values are not told: they may be secrets.

use toml::{Table, Value};

/// The paths that differ, in the order of their names.
pub fn differences(before: &Table, now: &Table) -> Vec<String> {
    let mut paths = Vec::new();
    compare("", before, now, &mut paths);
    paths
}

fn compare(path: &str, before: &Table, now: &Table, paths: &mut Vec<String>) {
    let mut names: Vec<_> = before.keys().chain(now.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let here = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match (before.get(name), now.get(name)) {
            (Some(Value::Table(before)), Some(Value::Table(now))) => compare(&here, before, now, paths),
            (before, now) if before == now => {}
            _ => paths.push(here),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_gone_or_otherwise_is_named_by_its_path() {
        let read = |text: &str| text.parse::<Table>().unwrap();
        let before = read("[host]\nadmin = 'a'\nwebhooks = ['x']\n[m.s]\nsalt = '1'\n");
        let now = read("[host]\nadmin = 'a'\nwebhooks = ['y']\nstore = 's'\n[m.t]\nsalt = '1'\n");
        assert_eq!(differences(&before, &now), ["host.store", "host.webhooks", "m.s", "m.t"]);
        assert_eq!(differences(&now, &now), Vec::<String>::new());
    }
}
