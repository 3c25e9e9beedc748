//! What sessions did for the first time in a stage. It is stored with each check, so that a host that was killed counts
//! nobody twice.
//!
//! The stored form is one piece of bytes: the level of the sample, then for each operation, pool and mark the
//! operation's name (with its length as a `u16` before it), a byte each for pool and mark, how many sessions (`u32`),
//! and their hashes (`u64`); all little-endian.

use std::{collections::BTreeMap, sync::Arc};

use cutover_model::request::PoolId;

/// What a session did in an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Mark {
    /// It made a call.
    Seen,
    /// A call of it failed.
    Failed,
    /// It was answered with 3xx.
    Redirection,
    /// It was answered with 4xx, or refused.
    ClientError,
}

/// What is marked in which operation of which pool.
#[expect(missing_docs, reason = "the names and types of the other fields say what they are")]
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    pub operation: Arc<str>,
    pub pool: PoolId,
    /// What the sessions did.
    pub mark: Mark,
}

/// Sessions by what they did for the first time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// How often the sets of sessions were halved in the stage so far.
    pub level: u8,
    /// Hashes of the sessions' keys, by what the sessions did.
    pub sessions: BTreeMap<Group, Vec<u64>>,
}

/// Bytes that are no marks.
#[derive(Debug, thiserror::Error)]
#[error("what is kept of sessions cannot be read")]
pub struct Unreadable;

impl Mark {
    /// Each mark at the index that its byte has.
    pub(super) const ALL: [Self; 4] = [Self::Seen, Self::Failed, Self::Redirection, Self::ClientError];

    pub(super) const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl Marks {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Adds a session that did something for the first time.
    pub fn add(&mut self, group: Group, session: u64) {
        self.sessions.entry(group).or_default().push(session);
    }

    /// Adds all of `later`.
    pub fn merge(&mut self, later: Self) {
        self.level = self.level.max(later.level);
        for (group, mut sessions) in later.sessions {
            self.sessions.entry(group).or_default().append(&mut sessions);
        }
    }

    /// Encodes them as the module describes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.level];
        for (Group { operation, pool, mark }, sessions) in &self.sessions {
            let name = operation.as_bytes();
            bytes.extend(u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
            bytes.extend(name);
            bytes.extend([*pool as u8, *mark as u8]);
            bytes.extend(u32::try_from(sessions.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend(sessions.iter().flat_map(|session| session.to_le_bytes()));
        }
        bytes
    }

    /// Decodes what [`Marks::to_bytes`] made.
    ///
    /// # Errors
    /// If the bytes are cut off or name an unknown pool or mark.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut rest = bytes;
        let [level] = take(&mut rest)?;
        let mut marks = Self { level, ..Self::default() };
        while !rest.is_empty() {
            let length = u16::from_le_bytes(take(&mut rest)?).into();
            let (name, after) = rest.split_at_checked(length).ok_or(Unreadable)?;
            rest = after;
            let operation = Arc::from(str::from_utf8(name).map_err(|_invalid| Unreadable)?);
            let [pool, mark] = take(&mut rest)?;
            let pool = *[PoolId::V1, PoolId::V2].get(usize::from(pool)).ok_or(Unreadable)?;
            let mark = *Mark::ALL.get(usize::from(mark)).ok_or(Unreadable)?;
            let count = u32::from_le_bytes(take(&mut rest)?);
            // Grows with what is there, not with what is announced.
            let mut sessions = Vec::new();
            for _ in 0..count {
                sessions.push(u64::from_le_bytes(take(&mut rest)?));
            }
            marks.sessions.insert(Group { operation, pool, mark }, sessions);
        }
        Ok(marks)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Unreadable> {
    let (taken, after) = rest.split_first_chunk::<N>().ok_or(Unreadable)?;
    *rest = after;
    Ok(*taken)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_marks() -> impl Strategy<Value = Marks> {
        let pool = prop::sample::select(vec![PoolId::V1, PoolId::V2]);
        let group = ("[a-z]{0,9}", pool, prop::sample::select(Mark::ALL.to_vec()));
        let group = group.prop_map(|(name, pool, mark)| Group { operation: name.into(), pool, mark });
        let sessions = prop::collection::btree_map(group, prop::collection::vec(any::<u64>(), 0..9), 0..9);
        (any::<u8>(), sessions).prop_map(|(level, sessions)| Marks { level, sessions })
    }

    proptest! {
        #[test]
        fn marks_come_back_as_they_were(marks in any_marks()) {
            prop_assert_eq!(Marks::from_bytes(&marks.to_bytes()).unwrap(), marks);
        }

        #[test]
        fn what_is_cut_off_or_nonsense_is_refused_or_read_and_never_panics(
            marks in any_marks(), cut in any::<prop::sample::Index>(), noise in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let bytes = marks.to_bytes();
            let part = &bytes[..cut.index(bytes.len())];
            if let Ok(read) = Marks::from_bytes(part) {
                prop_assert!(read.sessions.iter().all(|(group, sessions)| marks.sessions.get(group) == Some(sessions)));
            }
            drop(Marks::from_bytes(&noise));
        }
    }
}
