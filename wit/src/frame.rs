//! The frame that `decide` gets: one byte list, because a call into a component is paid for by allocation.
//!
//! Layout, integers little-endian `u32`: position of the session, share in ppm, number of attributes; then for each
//! attribute its length and its bytes in UTF-8, or the length `0xffff_ffff` alone for an attribute that is absent.

/// The length that stands for an absent attribute.
const ABSENT: u32 = u32::MAX;

/// Longer attributes are cut to this many bytes, so that a caller's header cannot make a frame large.
pub const MAX_ATTRIBUTE: usize = 4096;

/// Packs a frame into `into`, which is cleared first. Attributes beyond [`MAX_ATTRIBUTE`] bytes are cut at a character.
pub fn pack<'a, I>(into: &mut Vec<u8>, position: u32, share_ppm: u32, attributes: I)
where
    I: ExactSizeIterator<Item = Option<&'a str>>,
{
    into.clear();
    let count = u32::try_from(attributes.len()).unwrap_or(u32::MAX);
    for word in [position, share_ppm, count] {
        into.extend_from_slice(&word.to_le_bytes());
    }
    for attribute in attributes {
        let Some(text) = attribute else {
            into.extend_from_slice(&ABSENT.to_le_bytes());
            continue;
        };
        let text = text.get(..text.floor_char_boundary(MAX_ATTRIBUTE)).unwrap_or_default();
        into.extend_from_slice(&u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
        into.extend_from_slice(text.as_bytes());
    }
}

/// A frame, read in place.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Where the session stands, 0 to 999 999.
    pub position: u32,
    /// The plan's share for V2.
    pub share_ppm: u32,
    count: u32,
    attributes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads the head of a frame; `None` if it is too short to be one.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (position, rest) = word(bytes)?;
        let (share_ppm, rest) = word(rest)?;
        let (count, attributes) = word(rest)?;
        Some(Self { position, share_ppm, count, attributes })
    }

    /// The attributes in the order that the policy asked for; it ends early where the frame is cut short.
    pub fn attributes(&self) -> impl Iterator<Item = Option<&'a str>> + use<'a> {
        let mut rest = self.attributes;
        let mut left = self.count;
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let (length, after) = word(rest)?;
            if length == ABSENT {
                rest = after;
                return Some(None);
            }
            let (text, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
            rest = after;
            Some(Some(std::str::from_utf8(text).ok()?))
        })
    }

    /// Whether the session belongs to V2 at the plan's share.
    #[must_use]
    pub const fn is_v2(&self) -> bool {
        crate::share::is_v2(self.position, self.share_ppm)
    }
}

fn word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*head), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn long_attributes_are_cut_at_a_character() {
        let mut bytes = Vec::new();
        let long = "é".repeat(MAX_ATTRIBUTE);
        pack(&mut bytes, 1, 2, [Some(long.as_str())].into_iter());
        let text = Frame::read(&bytes).unwrap().attributes().next().unwrap().unwrap();
        assert_eq!(text.len(), MAX_ATTRIBUTE);
    }

    proptest! {
        #[test]
        fn what_is_packed_is_read(position: u32, share: u32, attributes in prop::collection::vec(prop::option::of(".{0,30}"), 0..12)) {
            let mut bytes = Vec::new();
            pack(&mut bytes, position, share, attributes.iter().map(Option::as_deref));
            let frame = Frame::read(&bytes).unwrap();
            prop_assert_eq!((frame.position, frame.share_ppm), (position, share));
            let read: Vec<_> = frame.attributes().map(|a| a.map(str::to_owned)).collect();
            prop_assert_eq!(read, attributes);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(frame) = Frame::read(&bytes) {
                prop_assert!(frame.attributes().count() <= bytes.len());
            }
        }
    }
}
