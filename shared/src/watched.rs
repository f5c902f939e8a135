//! Small files whose change needs no restart, such as keys and certificates: they are read at the start and looked at again
//! every few seconds. What cannot be read or makes no sense later on is one line in the log, and what was there before stays.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::seam::Seams;

/// Between two looks. Files are looked at whole, because what Kubernetes mounts changes by a link far above them.
pub const LOOK_PAUSE: Duration = Duration::from_secs(5);
/// The longest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why there is nothing to begin with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{files}: {why}")]
    Senseless { files: String, why: String },
}

/// What files say now. Cheap to clone; the files are looked at until the last clone is gone.
pub struct Watched<T> {
    current: Arc<ArcSwap<T>>,
    /// Ends the looking.
    looking: Arc<DropGuard>,
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// Reads `files`, of whose contents, in their order, `parse` makes the value. A file that is absent or longer than 1 MiB is
    /// an error.
    pub async fn start(
        files: Vec<PathBuf>,
        seams: &Seams,
        parse: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let contents = read(files.clone(), seams).await?;
        let seen = blake3_of(&contents);
        let value = parse(&contents).map_err(|why| Error::Senseless { files: names(&files), why })?;
        let current = Arc::new(ArcSwap::from_pointee(value));
        let stop = CancellationToken::new();
        let look = Look { files, seams: seams.clone(), parse, current: Arc::clone(&current) };
        let stopped = stop.clone();
        seams.spawner.spawn(stopped.run_until_cancelled_owned(look.look(seen)));
        Ok(Self { current, looking: Arc::new(stop.drop_guard()) })
    }

    pub fn get(&self) -> Arc<T> {
        self.current.load_full()
    }
}

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Self { current: Arc::clone(&self.current), looking: Arc::clone(&self.looking) }
    }
}

impl<T> fmt::Debug for Watched<T> {
    /// Without the value, which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

/// Reads one small file once.
pub async fn read_once(file: &Path, seams: &Seams) -> Result<Vec<u8>, Error> {
    Ok(read(vec![file.to_owned()], seams).await?.swap_remove(0))
}

struct Look<T, P> {
    files: Vec<PathBuf>,
    seams: Seams,
    parse: P,
    current: Arc<ArcSwap<T>>,
}

impl<T: Send + Sync, P: Fn(&[Vec<u8>]) -> Result<T, String>> Look<T, P> {
    async fn look(self, mut seen: blake3::Hash) {
        let files = names(&self.files);
        // The same fault is told once.
        let mut told = None;
        loop {
            self.seams.spawner.sleep(LOOK_PAUSE).await;
            let fault = match read(self.files.clone(), &self.seams).await {
                Ok(contents) => {
                    let found = blake3_of(&contents);
                    if found == seen {
                        told = None;
                        continue;
                    }
                    match (self.parse)(&contents) {
                        Ok(value) => {
                            self.current.store(Arc::new(value));
                            (seen, told) = (found, None);
                            tracing::info!("{files} changed, and holds from now on");
                            continue;
                        }
                        Err(why) => format!("{files}: {why}"),
                    }
                }
                Err(error) => error.to_string(),
            };
            if told.as_ref() != Some(&fault) {
                tracing::error!("{fault}; what was read before holds on");
                told = Some(fault);
            }
        }
    }
}

async fn read(files: Vec<PathBuf>, seams: &Seams) -> Result<Vec<Vec<u8>>, Error> {
    let all =
        move || files.into_iter().map(|path| read_one(&path).map_err(|source| Error::Read { path, source })).collect();
    seams.spawner.blocking(all).await
}

fn read_one(path: &Path) -> io::Result<Vec<u8>> {
    #[expect(clippy::disallowed_methods, reason = "configuration beside the data; no simulation has such files")]
    let file = std::fs::File::open(path)?;
    let mut contents = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is longer than 1 MiB"));
    }
    Ok(contents)
}

/// Of all contents together, which are told apart by their lengths.
fn blake3_of(contents: &[Vec<u8>]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for content in contents {
        hasher.update(&(content.len() as u64).to_le_bytes()).update(content);
    }
    hasher.finalize()
}

fn names(files: &[PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(contents: &[Vec<u8>]) -> Result<u32, String> {
        String::from_utf8_lossy(&contents[0]).trim().parse().map_err(|_| "not a number".to_owned())
    }

    #[expect(clippy::disallowed_methods, reason = "a real file of the test")]
    fn write(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_seen_and_a_fault_leaves_what_was_there() {
        let (seams, folder) = (Seams::simulated(1), tempfile::tempdir().unwrap());
        let path = folder.path().join("number");
        write(&path, "1");
        let watched = Watched::start(vec![path.clone()], &seams, number).await.unwrap();
        assert_eq!(*watched.get(), 1);
        for (text, value) in [("2", 2), ("x", 2), ("3", 3)] {
            write(&path, text);
            seams.spawner.sleep(LOOK_PAUSE * 2).await;
            assert_eq!(*watched.get(), value, "{text}");
        }
        drop(folder);
        seams.spawner.sleep(LOOK_PAUSE * 2).await;
        assert_eq!(*watched.get(), 3, "a file that is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_begins_with_a_file_that_is_absent_senseless_or_long() {
        let (seams, folder) = (Seams::simulated(1), tempfile::tempdir().unwrap());
        let path = folder.path().join("number");
        let start = async || Watched::start(vec![path.clone()], &seams, number).await.unwrap_err().to_string();
        assert!(start().await.starts_with("cannot read "));
        write(&path, "x");
        assert!(start().await.ends_with("number: not a number"));
        write(&path, &"1".repeat((1 << 20) + 1));
        assert!(start().await.contains("longer than 1 MiB"));
    }
}
