//! An error together with what caused it, for logs and answers. Any stage may use it.

use std::error::Error;

/// An error and its causes as one sentence.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the store")]
    struct Outer(#[source] io::Error);

    #[test]
    fn causes_follow_what_they_caused() {
        assert_eq!(chain(&Outer(io::Error::other("the disk is full"))), "cannot open the store: the disk is full");
    }
}
