//! The chain of causes of an error, as one text.

use std::error::Error;
use std::io;

/// An error and all that caused it, outermost first.
pub fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| cause(*error))
}

fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    // The source of an IO error is that of the error which it was made of: that one itself would be left out.
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

/// The words of an error and of all its causes, each once: many errors end with those of their cause.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for text in causes(error).map(ToString::to_string) {
        if texts.last().is_none_or(|last| !last.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the file")]
    struct Outer(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start: {0}")]
    struct Telling(#[source] Outer);

    #[test]
    fn a_cause_is_named_once_and_none_is_left_out() {
        let inner = io::Error::other("the disk is gone");
        let error = Telling(Outer(io::Error::other(inner)));
        assert_eq!(chain(&error), "cannot start: cannot read the file: the disk is gone");
    }
}
