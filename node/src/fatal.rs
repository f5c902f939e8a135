//! The end of a process that cannot go on without risking what it has promised. Only rooms whose disk or group failed come
//! here, once, with one clear line; a restart finds out what is on disk.

use berth_shared::seam::simulation;

/// Prints one line and aborts. In a simulation only the simulated process ends.
pub(crate) fn abort(message: &str) {
    if let Some(world) = simulation::current() {
        return world.abort(message);
    }
    eprintln!("berth: {message}; the process ends, because what is on disk is known only after a restart");
    std::process::abort();
}
