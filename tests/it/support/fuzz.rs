//! Tests of made-up input: how many cases they run, and on what.

use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::{Builder, Runtime};

/// As many cases as a quick run has time for; where `PROPTEST_CASES` is set, one for every `cost` of
/// those, since a case here takes as long as that many of a cheap test.
pub fn runner(quick: u32, cost: u32) -> TestRunner {
    let default = Config::default();
    let cases = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => (default.cases / cost).max(1),
        None => quick,
    };
    // What fails is made smaller a few times only: each try takes its time.
    let max_shrink_iters = 1_000_u32.div_ceil(cost).max(20);
    TestRunner::new(Config { cases, failure_persistence: None, max_shrink_iters, ..default })
}

pub fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}
