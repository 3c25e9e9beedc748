//! Whether V1 is there, for everything that would send callers back to it. Pure; `now` is passed in.
//!
//! A pool that restarts its only worker is not gone: the host waits for it. While V1 has nothing to serve, the host
//! does not wait: V1 counts as gone unless it is there.

use std::time::Duration;

use cutover_model::clock::Mono;

/// How long V1 may be away: longer than a worker takes to be replaced as a rule, and still news within seconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long it may take until it is there for the first time: its workers are starting.
const START: Duration = Duration::from_secs(30);

/// Whether V1 is there, and since when it is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Presence {
    away_since: Option<Mono>,
    /// Whether it was there before.
    seen: bool,
    gone: bool,
    /// Whether people were told that it is gone while it had to serve.
    told: bool,
}

/// A change that people have to know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// V1 is gone while it has to serve.
    Gone,
    /// It is there again.
    Back,
}

impl Presence {
    /// Takes a look. `has_to_serve` says whether callers depend on V1, `can_serve` whether somebody is there.
    pub fn look(&mut self, has_to_serve: bool, can_serve: bool, now: Mono) -> Option<News> {
        if can_serve {
            let was_told = self.told;
            *self = Self { seen: true, ..Self::default() };
            return was_told.then_some(News::Back);
        }
        let since = *self.away_since.get_or_insert(now);
        let patience = if self.seen { PATIENCE } else { START };
        self.gone = !has_to_serve || now.since(since) >= patience;
        let news = self.gone && has_to_serve && !self.told;
        self.told |= news;
        news.then_some(News::Gone)
    }

    /// Whether V1 is gone.
    pub const fn is_gone(self) -> bool {
        self.gone
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn people_are_told_once_that_v1_is_gone_and_once_that_it_is_back() {
        let mut v1 = Presence::default();
        let looks =
            [(0, true), (1_000, false), (2_999, false), (3_000, false), (9_000, false), (9_500, true), (9_900, true)];
        let told: Vec<_> = looks.map(|(ms, there)| v1.look(true, there, at(ms))).into_iter().flatten().collect();
        assert_eq!(told, [News::Gone, News::Back]);
        assert!(!v1.is_gone());
    }

    #[test]
    fn who_has_nothing_to_serve_is_not_missed_until_it_has() {
        let mut v1 = Presence::default();
        assert_eq!(v1.look(false, false, at(0)), None);
        assert!(v1.is_gone(), "nothing goes back to it");
        assert_eq!(v1.look(true, false, at(29_999)), None, "its workers may be starting");
        assert!(!v1.is_gone());
        assert_eq!(v1.look(true, false, at(30_000)), Some(News::Gone));
    }

    proptest! {
        /// News alternate, and V1 is never gone while somebody is there.
        #[test]
        fn news_are_news(looks in prop::collection::vec((any::<bool>(), any::<bool>(), 0_u64..3_000), 0..60)) {
            let (mut v1, mut ms, mut last) = (Presence::default(), 0, News::Back);
            for (has_to_serve, can_serve, later) in looks {
                ms += later;
                let news = v1.look(has_to_serve, can_serve, at(ms));
                prop_assert!(!(v1.is_gone() && can_serve));
                if let Some(news) = news {
                    prop_assert_ne!(news, last);
                    last = news;
                }
            }
        }
    }
}
