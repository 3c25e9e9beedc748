//! The misdeeds that never return, kept from the optimiser, which may drop a loop that does nothing.

use std::hint::black_box;

use schemars::JsonSchema;
use serde::Deserialize;

/// What the policy does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Misdeed {
    /// Nothing wrong.
    #[default]
    Behave,
    /// Panics, which is a trap.
    Trap,
    /// Never returns.
    Loop,
    /// Takes memory until there is none.
    Allocate,
    /// Calls itself until the stack ends.
    Recurse,
    /// Answers what makes no sense.
    Nonsense,
    /// Answers far too much.
    Huge,
    /// Answers an error.
    Refuse,
}

/// What is left to do for a function that returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Answer as one should.
    Behave,
    /// Answer what makes no sense.
    Nonsense,
    /// Answer far too much.
    Huge,
    /// Answer an error.
    Refuse,
}

impl Misdeed {
    /// Does it, unless it is an answer.
    pub(crate) fn act(self) -> Left {
        match self {
            Self::Behave => Left::Behave,
            Self::Nonsense => Left::Nonsense,
            Self::Huge => Left::Huge,
            Self::Refuse => Left::Refuse,
            Self::Trap => trap(),
            Self::Loop => loop {
                black_box(0);
            },
            Self::Allocate => allocate(),
            Self::Recurse => {
                black_box(recurse(black_box(1)));
                trap()
            }
        }
    }
}

/// Works for so many rounds, then goes on: what is slow without ever failing.
pub(crate) fn spin(rounds: u64) {
    for round in 0..rounds {
        black_box(round);
    }
}

/// Panics.
#[expect(clippy::panic, reason = "that is what it is for")]
pub(crate) fn trap() -> ! {
    panic!("told to trap")
}

fn allocate() -> ! {
    let mut all = Vec::new();
    loop {
        all.push(black_box(vec![1_u8; 1 << 20]));
    }
}

/// Ends only if `depth` is 0, which the optimiser cannot rule out; the frame it keeps makes it no tail call.
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    if black_box(depth) == 0 {
        return 0;
    }
    recurse(black_box(depth.wrapping_add(1).max(1))).wrapping_add(black_box(frame).iter().sum())
}
