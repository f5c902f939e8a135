//! The end of a process that cannot go on without risking what it has promised. Only rooms whose disk or group failed come
//! here, once, with one clear line; a restart finds out what is on disk.

/// Prints one line and aborts.
pub(crate) fn abort(message: &str) {
    eprintln!("berth: {message}; the process ends, because what is on disk is known only after a restart");
    std::process::abort();
}
