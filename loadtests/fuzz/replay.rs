//! The committed corpus of a fuzz target, for the crates' own tests: what was once found stays tested without a fuzzer.
#![expect(clippy::disallowed_methods, reason = "the files are the test's own")]

/// Gives every file of the target's corpus to `check`, which panics where something is wrong.
pub(crate) fn replay(target: &str, check: impl Fn(&[u8])) {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../loadtests/fuzz/corpus").join(target);
    let files = std::fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", corpus.display());
    for path in paths {
        eprintln!("{}", path.display());
        check(&std::fs::read(&path).unwrap());
    }
}
