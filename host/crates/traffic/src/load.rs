//! How much the host serves at once, and what it gives up first when that is too much.
//!
//! Mirrored requests are the first to go, because nobody waits for them; then V2's, and V1's last, because a migration
//! must not cost callers who are not part of it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// Nothing is mirrored above this part of what may be served, in percent.
const MIRRORS: usize = 70;

/// V2 gets nothing above this part, in percent.
const V2: usize = 90;

/// What V2's callers are told when there is room for V1's alone.
pub const NO_ROOM: &str = "the host serves so many requests that V2 gets none; try again later";

/// Counts the requests that are served. Each thread that serves has a handle of its own; all count together.
#[derive(Debug)]
#[repr(align(128))]
pub struct Load {
    in_flight: Arc<AtomicUsize>,
    most: usize,
}

/// Which requests there is room for; each value allows what the one before it allows, and more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// The host takes no further request.
    None,
    /// V1's requests, and no others.
    V1,
    /// V1's and V2's requests.
    V2,
    /// Mirrored requests as well.
    Mirrors,
}

/// What callers are told when there is no room at all.
pub const FULL: &str = "the host serves as many requests as it may; try again later";

/// A request that is served; dropping it ends that.
#[derive(Debug)]
pub struct Served {
    load: Arc<Load>,
    /// False while the host waits for the caller's body.
    counts: AtomicBool,
}

impl Load {
    /// With room for so many requests at once.
    pub fn new(most: usize) -> Self {
        Self { in_flight: Arc::default(), most }
    }

    /// Another handle, for another thread. Both count together.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { in_flight: Arc::clone(&self.in_flight), most: self.most }
    }

    /// Counts a request that came. Returns what there is room for with it.
    pub fn enter(self: &Arc<Self>) -> (Served, Room) {
        let others = self.in_flight.fetch_add(1, Ordering::Relaxed);
        (Served { load: Arc::clone(self), counts: AtomicBool::new(true) }, room(others, self.most))
    }
}

impl Served {
    /// The request does not count while its caller keeps it waiting.
    pub fn rest(&self) {
        if self.counts.swap(false, Ordering::Relaxed) {
            self.load.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The request counts again. Returns what there is room for with it.
    pub fn resume(&self) -> Room {
        let mine = usize::from(self.counts.swap(true, Ordering::Relaxed));
        let others = self.load.in_flight.fetch_add(1 - mine, Ordering::Relaxed) - mine;
        room(others, self.load.most)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.rest();
    }
}

const fn room(others: usize, most: usize) -> Room {
    if others >= most {
        Room::None
    } else if others * 100 >= most * V2 {
        Room::V1
    } else if others * 100 >= most * MIRRORS {
        Room::V2
    } else {
        Room::Mirrors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_go_first_and_v1_last() {
        let rooms: Vec<_> = (0..12).map(|others| room(others, 10)).collect();
        assert!(rooms.is_sorted_by(|a, b| a >= b));
        assert_eq!(
            [0, 6, 7, 8, 9, 10].map(|at| rooms[at]),
            [Room::Mirrors, Room::Mirrors, Room::V2, Room::V2, Room::V1, Room::None]
        );
    }

    #[test]
    fn who_has_ended_makes_room() {
        let load = Arc::new(Load::new(1));
        let (first, room) = load.enter();
        assert_eq!(room, Room::Mirrors);
        assert_eq!(load.enter().1, Room::None);
        drop(first);
        assert_eq!(load.enter().1, Room::Mirrors);
    }

    #[test]
    fn who_waits_for_its_body_takes_no_room() {
        let load = Arc::new(Load::new(2));
        let (first, _) = load.enter();
        first.rest();
        first.rest();
        let (_second, room) = load.enter();
        assert_eq!(room, Room::Mirrors);
        let (third, room) = load.enter();
        assert_eq!((room, first.resume()), (Room::Mirrors, Room::None));
        drop(third);
        assert_eq!(first.resume(), Room::Mirrors, "it counts once");
        drop(first);
        assert_eq!(load.enter().1, Room::Mirrors);
    }
}
