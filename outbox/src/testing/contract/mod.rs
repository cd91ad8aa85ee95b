//! What every store and every sink promises the runner, as suites of tests.
//!
//! [`store`] and [`sink`] run all cases, each on a fixture of its own, and panic with the rules that
//! are broken. A test of a store or sink of your own is one call, and a fixture for what can't be done
//! through the trait: [`StoreFixture`] and [`SinkFixture`].

mod sink;
mod store;

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;

pub use self::sink::{SinkFixture, sink};
pub use self::store::{StoreFixture, store};

/// After this, a case counts as hanging.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is wrong, in a case.
#[derive(Debug)]
struct Broken(String);

impl<E: std::error::Error> From<E> for Broken {
    fn from(error: E) -> Self {
        Self(format!("it failed: {error}"))
    }
}

/// A rule that is broken, and how.
#[derive(Debug)]
struct Violation {
    rule: String,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// Runs one case.
async fn check(rule: String, case: impl Future<Output = Result<(), Broken>>) -> Option<Violation> {
    let case = AssertUnwindSafe(case).catch_unwind();
    let what = match tokio::time::timeout(PATIENCE, case).await {
        Ok(Ok(Ok(()))) => return None,
        Ok(Ok(Err(Broken(what)))) => what,
        Ok(Err(_)) => "it panicked".to_owned(),
        Err(_) => format!("it hangs: not done after {PATIENCE:?}"),
    };
    Some(Violation { rule, what })
}

/// Panics unless all cases passed.
fn conclude(subject: &str, violations: &[Violation]) {
    if !violations.is_empty() {
        let rules: Vec<_> = violations.iter().map(|v| format!("  - {v}")).collect();
        panic!("the {subject} breaks its contract:\n{}", rules.join("\n"));
    }
}

/// Which cases are run: all, or one alone by its rule.
type Only<'r> = Option<&'r str>;

/// Runs the functions one after the other, each with a fixture of its own. Their names are the rules.
macro_rules! cases {
    ($create:expr, $only:expr => $($module:ident { $($case:ident),+ $(,)? })+) => {{
        let mut violations = Vec::new();
        $($(
            let rule = stringify!($case).replace('_', " ");
            if $only.is_none_or(|only: &str| only == rule) {
                let case = async { $module::$case(&$create().await).await };
                violations.extend(super::check(rule, case).await);
            }
        )+)+
        violations
    }};
}
use cases;

/// Ends the case unless the condition holds.
macro_rules! require {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err($crate::testing::contract::Broken(format!($($what)+)));
        }
    };
}
use require;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_case_that_fails_or_panics_names_its_rule() {
        assert!(check("good".into(), async { Ok(()) }).await.is_none());
        let bad = check("bad".into(), async { Err(Broken("no".into())) }).await;
        assert_eq!(bad.unwrap().to_string(), "bad: no");
        let panicked = check("bad".into(), async { panic!("on purpose") }).await;
        assert_eq!(panicked.unwrap().to_string(), "bad: it panicked");
    }

    #[test]
    #[should_panic(expected = "the store breaks its contract:\n  - one: no\n  - two: no")]
    fn all_broken_rules_are_told() {
        let broken = |rule: &str| Violation {
            rule: rule.into(),
            what: "no".into(),
        };
        conclude("store", &[broken("one"), broken("two")]);
    }
}
