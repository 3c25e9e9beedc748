//! How much the host serves at once, and what it gives up first when that is too much.
//!
//! Mirrored requests are the first to go, then V2's, and V1's last: nobody waits for the first, and a migration must not
//! cost those who are not part of it.

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

/// See the module. Each thread that serves has one of its own, which counts into what is common to all.
#[derive(Debug)]
#[repr(align(128))]
pub struct Load {
    in_flight: Arc<AtomicUsize>,
    most: usize,
}

/// What there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// Nothing.
    None,
    /// V1's requests.
    V1,
    /// And V2's.
    V2,
    /// And mirrored ones.
    Mirrors,
}

/// What callers are told when there is room for nobody.
pub const FULL: &str = "the host serves as many requests as it may; try again later";

/// A request that is served; dropping it ends that.
#[derive(Debug)]
pub struct Served {
    load: Arc<Load>,
    /// Whether it counts.
    counts: AtomicBool,
}

impl Load {
    /// At most so many requests at once.
    pub fn new(most: usize) -> Self {
        Self { in_flight: Arc::default(), most }
    }

    /// The same for another thread.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { in_flight: Arc::clone(&self.in_flight), most: self.most }
    }

    /// A request came: what there is room for with it.
    pub fn enter(self: &Arc<Self>) -> (Served, Room) {
        let others = self.in_flight.fetch_add(1, Ordering::Relaxed);
        (Served { load: Arc::clone(self), counts: AtomicBool::new(true) }, room(others, self.most))
    }
}

impl Served {
    /// It is not served while its caller keeps it waiting, so it does not count.
    pub fn rest(&self) {
        if self.counts.swap(false, Ordering::Relaxed) {
            self.load.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// It counts again: what there is room for with it.
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
