//! A real directory. One process uses it at a time: two writing the same files would destroy both their histories.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;

use super::{Backend, Disk, check_name, initialise, name_of_new};

const LOCK_NAME: &str = "lock";

/// A directory of files, locked as long as this value lives.
#[derive(Debug)]
pub struct DirectoryDisk {
    path: PathBuf,
    /// Held for its exclusive lock, which the system releases when the process ends in whatever way.
    _lock: File,
}

impl DirectoryDisk {
    /// Creates the directory when it is absent. Fails when another process, or another value in this one, uses it.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let explain = |error: io::Error| with_path(&path, &error);
        #[expect(clippy::disallowed_methods, reason = "this is the seam")]
        fs::create_dir_all(&path).map_err(explain)?;
        let lock = open_file(&path.join(LOCK_NAME)).map_err(explain)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!("the data directory {} is in use by another process", path.display());
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
            }
            Err(TryLockError::Error(error)) => return Err(explain(error)),
        }
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_directory(parent).map_err(explain)?;
        }
        sync_directory(&path).map_err(explain)?;
        Ok(Self { path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn create(&self, name: &str) -> io::Result<()> {
        let new = self.path.join(name_of_new(name));
        let file = open_file(&new)?;
        file.set_len(0)?;
        initialise(FileBackend::new(file).map_err(io::Error::other)?)?;
        self.rename(&new, name)
    }

    fn rename(&self, from: &Path, name: &str) -> io::Result<()> {
        #[expect(clippy::disallowed_methods, reason = "this is the seam")]
        fs::rename(from, self.path.join(name))?;
        sync_directory(&self.path)
    }
}

impl Disk for DirectoryDisk {
    fn open(&self, name: &str) -> io::Result<Backend> {
        check_name(name)?;
        let path = self.path.join(name);
        let explain = |error: io::Error| with_path(&path, &error);
        if !path.try_exists().map_err(explain)? {
            self.create(name).map_err(explain)?;
        }
        let file = open_file(&path).map_err(explain)?;
        if file.metadata().map_err(explain)?.len() == 0 {
            return Err(explain(emptied()));
        }
        Backend::new(FileBackend::new(file).map_err(io::Error::other)?)
    }

    fn read_small(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        check_name(name)?;
        let path = self.path.join(name);
        #[expect(clippy::disallowed_methods, reason = "this is the seam")]
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(with_path(&path, &error)),
        }
    }

    fn write_small(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        check_name(name)?;
        let path = self.path.join(name);
        let replace = || {
            let new = self.path.join(name_of_new(name));
            #[expect(clippy::disallowed_methods, reason = "this is the seam")]
            let mut file = File::create(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            self.rename(&new, name)
        };
        replace().map_err(|error: io::Error| with_path(&path, &error))
    }

    fn holds(&self, name: &str) -> io::Result<bool> {
        check_name(name)?;
        let path = self.path.join(name);
        path.try_exists().map_err(|error| with_path(&path, &error))
    }

    fn describe(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

/// A file gets its name only when it is whole, so an empty one has lost what it had. The engine would take it for a new one, and
/// the node would forget what it has promised to others.
fn emptied() -> io::Error {
    let message = "the file is there and empty, so what it held is lost: put it back, or remove the whole data directory and \
                   start as a new node";
    io::Error::new(io::ErrorKind::InvalidData, message)
}

fn open_file(path: &Path) -> io::Result<File> {
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// Makes names created or replaced in a directory survive a power cut.
fn sync_directory(path: &Path) -> io::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    File::open(path)?.sync_all()
}

fn with_path(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use redb::StorageBackend;

    use super::*;

    #[test]
    fn a_directory_is_used_by_one_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("new/data");
        let first = DirectoryDisk::open(&path).unwrap();
        let error = DirectoryDisk::open(&path).unwrap_err();
        assert!(error.to_string().contains("in use by another process"), "{error}");
        assert!(error.to_string().contains("new/data"), "{error}");
        drop(first);
        DirectoryDisk::open(&path).unwrap();
    }

    #[test]
    fn small_files_are_replaced_whole_and_absent_ones_are_none() {
        let directory = tempfile::tempdir().unwrap();
        let disk = DirectoryDisk::open(directory.path()).unwrap();
        assert_eq!(disk.read_small("identity").unwrap(), None);
        disk.write_small("identity", b"a longer first version").unwrap();
        disk.write_small("identity", b"second").unwrap();
        assert_eq!(disk.read_small("identity").unwrap().unwrap(), b"second");
        let mut names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["identity", "lock"], "nothing is left lying about");
    }

    #[test]
    fn a_name_cannot_leave_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let disk = DirectoryDisk::open(directory.path()).unwrap();
        for name in ["../x", "a/b", "", ".", ".."] {
            assert_eq!(disk.write_small(name, b"").unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
    }

    #[test]
    fn a_database_file_keeps_its_bytes_and_knows_its_size() {
        let directory = tempfile::tempdir().unwrap();
        let disk = DirectoryDisk::open(directory.path()).unwrap();
        let file = disk.open("a.redb").unwrap();
        let empty = file.size().bytes();
        file.set_len(empty + 1024).unwrap();
        file.write(empty + 1000, b"x").unwrap();
        drop(file);
        let file = disk.open("a.redb").unwrap();
        let mut byte = [0];
        file.read(empty + 1000, &mut byte).unwrap();
        assert_eq!((file.size().bytes(), &byte), (empty + 1024, b"x"));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a file that has lost its content")]
    fn a_database_file_that_was_emptied_is_not_taken_for_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let disk = DirectoryDisk::open(directory.path()).unwrap();
        drop(disk.open("a.redb").unwrap());
        let path = directory.path().join("a.redb");
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        let line = disk.open("a.redb").unwrap_err().to_string();
        assert!(line.contains("a.redb: the file is there and empty"), "{line}");
        assert_eq!(fs::metadata(&path).unwrap().len(), 0, "it stays as it was");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a file that a crash left behind")]
    fn a_database_file_that_was_not_finished_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let disk = DirectoryDisk::open(directory.path()).unwrap();
        fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(directory.path().join("a.redb.new"))
            .unwrap()
            .write_all(&[7; 9000])
            .unwrap();
        let database = redb::Builder::new().create_with_backend(disk.open("a.redb").unwrap()).unwrap();
        database.begin_write().unwrap().commit().unwrap();
        assert!(!directory.path().join("a.redb.new").exists());
    }
}
