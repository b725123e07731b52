//! An error with its causes, on one line.

use std::error::Error;

/// Causes shown at most; a chain longer than this is a cycle or a mistake.
const CAUSES_MAX: usize = 16;

/// Joins an error and its sources with `: `. A cause that the message before it already tells is
/// left out, since many libraries repeat their source in their own message.
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut chain = error.to_string();
    let mut last = chain.clone();
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    for cause in causes.take(CAUSES_MAX) {
        let message = cause.to_string();
        if !last.contains(&message) {
            chain.push_str(": ");
            chain.push_str(&message);
            last = message;
        }
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Link(&'static str, #[source] Option<Box<Link>>);

    fn link(message: &'static str, cause: Option<Link>) -> Link {
        Link(message, cause.map(Box::new))
    }

    #[test]
    fn causes_follow_and_repetitions_do_not() {
        let root = link("connection refused", None);
        assert_eq!(error_chain(&root), "connection refused");
        let repeated = link("send: connection refused", Some(root));
        let chain = link("cannot reach app-1", Some(repeated));
        assert_eq!(
            error_chain(&chain),
            "cannot reach app-1: send: connection refused"
        );
    }
}
