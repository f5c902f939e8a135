//! A disk in memory that behaves as badly as real ones may. Bytes that were written but not synced can be lost in a power
//! cut, each sector of 512 bytes by itself and in any of the versions written since the last sync, and so can changes of a
//! file's length. Everything random comes from seeds, so a failure replays.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use redb::StorageBackend;

use berth_shared::seam::Random;
use berth_shared::seam::random::SeededRandom;

use super::{Backend, Disk, check_name, initialise, name_of_new};

const SECTOR_BYTES: usize = 512;

/// Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimulatedDisk {
    shared: Arc<Shared>,
}

/// Errors that a disk returns from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    pub read: Option<io::ErrorKind>,
    /// Of writes and changes of length.
    pub write: Option<io::ErrorKind>,
    pub sync: Option<io::ErrorKind>,
    /// Syncs report success and keep nothing: a disk that lies. For showing that a checker notices lost writes.
    pub sync_lies: bool,
}

/// While this lives no sync finishes. Syncs go on when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct SyncGate {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    gate_opened: Condvar,
    sync_arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, File>,
    small_files: BTreeMap<String, Vec<u8>>,
    /// The replacement of a small file during which the power went: it may survive or not.
    small_unfinished: Option<(String, Vec<u8>)>,
    faults: Faults,
    gates: usize,
    syncs_waiting: usize,
    /// Changes and syncs so far.
    operations: u64,
    power_cut_at: Option<u64>,
    power_is_off: bool,
}

#[derive(Clone, Debug, Default)]
struct File {
    /// What reads see.
    written: Vec<u8>,
    /// What a power cut cannot take.
    synced: Vec<u8>,
    /// Of every sector changed since the last sync, all versions it has had since.
    unsynced_sectors: BTreeMap<usize, Vec<[u8; SECTOR_BYTES]>>,
    unsynced_lengths: Vec<usize>,
}

impl SimulatedDisk {
    pub fn new() -> Self {
        Self::default()
    }

    /// The disk as it may be found after a power cut now. This disk is left as it is; a simulation drops its users.
    pub fn power_cut(&self, seed: u64) -> Self {
        let random = SeededRandom::new(seed);
        let state = self.shared.state.lock();
        let mut small_files = state.small_files.clone();
        if let Some((name, bytes)) = &state.small_unfinished
            && one_of(&random, 2) == 0
        {
            small_files.insert(name.clone(), bytes.clone());
        }
        let files = state.files.iter().map(|(name, file)| (name.clone(), file.survivor(&random))).collect();
        Self::with(State { files, small_files, ..State::default() })
    }

    /// The disk as the next process finds it when this one is killed: what was written stays, synced or not.
    pub fn process_killed(&self) -> Self {
        let state = self.shared.state.lock();
        Self::with(State {
            files: state.files.clone(),
            small_files: state.small_files.clone(),
            faults: state.faults,
            ..State::default()
        })
    }

    /// An empty file, whatever was there.
    fn create(&self, name: &str) -> OpenFile {
        self.shared.state.lock().files.insert(name.to_owned(), File::default());
        OpenFile { name: name.to_owned(), shared: self.shared.clone() }
    }

    fn with(state: State) -> Self {
        Self { shared: Arc::new(Shared { state: Mutex::new(state), ..Shared::default() }) }
    }

    /// The power goes during the operation (write, change of length or sync) that comes after `operations` more of them.
    /// From then on everything fails. [`Self::power_cut`] then tells what is left.
    pub fn cut_power_after(&self, operations: u64) {
        let mut state = self.shared.state.lock();
        state.power_cut_at = Some(state.operations + operations);
    }

    /// Whether nobody else has the disk, or a file of it.
    pub fn is_free(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }

    pub fn power_is_off(&self) -> bool {
        self.shared.state.lock().power_is_off
    }

    /// Writes, changes of length and syncs so far.
    pub fn operations(&self) -> u64 {
        self.shared.state.lock().operations
    }

    pub fn set_faults(&self, faults: Faults) {
        self.shared.state.lock().faults = faults;
    }

    /// Lets no sync finish while the gate lives. A sync blocks its thread, so blocking work must not run inline.
    pub fn hold_syncs(&self) -> SyncGate {
        self.shared.state.lock().gates += 1;
        SyncGate { shared: self.shared.clone() }
    }

    /// Blocks until a sync waits at a gate. False when none does after `patience`.
    pub fn wait_for_sync(&self, patience: Duration) -> bool {
        let mut state = self.shared.state.lock();
        !self.shared.sync_arrived.wait_while_for(&mut state, |state| state.syncs_waiting == 0, patience).timed_out()
    }

    /// Bytes of a database file as reads see them; 0 when there is none.
    pub fn file_bytes(&self, name: &str) -> usize {
        self.shared.state.lock().files.get(name).map_or(0, |file| file.written.len())
    }

    /// Flips some bits of one of the database files at rest.
    pub fn rot(&self, bits: usize, seed: u64) {
        let random = SeededRandom::new(seed);
        let names: Vec<String> = self.shared.state.lock().files.keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let name = &names[one_of(&random, names.len())];
        let length = 8 * self.file_bytes(name).max(1);
        (0..bits).for_each(|_| self.flip_bit(name, one_of(&random, length)));
    }

    /// Flips one bit of a database file at rest. Bits count from the lowest of the first byte; one past the end is none.
    pub fn flip_bit(&self, name: &str, bit: usize) {
        let mut state = self.shared.state.lock();
        if let Some(file) = state.files.get_mut(name) {
            for bytes in [&mut file.written, &mut file.synced] {
                if let Some(byte) = bytes.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
            }
        }
    }
}

impl Disk for SimulatedDisk {
    fn open(&self, name: &str) -> io::Result<Backend> {
        check_name(name)?;
        let exists = {
            let state = self.shared.state.lock();
            state.check_power()?;
            state.files.contains_key(name)
        };
        if !exists {
            let new = name_of_new(name);
            initialise(self.create(&new))?;
            let mut state = self.shared.state.lock();
            if let Some(file) = state.files.remove(&new) {
                state.files.insert(name.to_owned(), file);
            }
        }
        Backend::new(OpenFile { name: name.to_owned(), shared: self.shared.clone() })
    }

    fn read_small(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        check_name(name)?;
        let state = self.shared.state.lock();
        state.check_power()?;
        fail_if(state.faults.read, "read")?;
        Ok(state.small_files.get(name).cloned())
    }

    fn write_small(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        check_name(name)?;
        let mut state = self.shared.state.lock();
        state.check_power()?;
        fail_if(state.faults.write, "write")?;
        if state.count_operation().is_err() {
            state.small_unfinished = Some((name.to_owned(), bytes.to_vec()));
            return state.check_power();
        }
        state.small_files.insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn holds(&self, name: &str) -> io::Result<bool> {
        check_name(name)?;
        let state = self.shared.state.lock();
        state.check_power()?;
        Ok(state.files.contains_key(name))
    }

    fn describe(&self, name: &str) -> String {
        format!("{name} in memory")
    }
}

impl Drop for SyncGate {
    fn drop(&mut self) {
        self.shared.state.lock().gates -= 1;
        self.shared.gate_opened.notify_all();
    }
}

impl State {
    fn check_power(&self) -> io::Result<()> {
        if self.power_is_off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    /// Fails when the power goes during this operation.
    fn count_operation(&mut self) -> io::Result<()> {
        self.power_is_off |= self.power_cut_at == Some(self.operations);
        self.operations += 1;
        self.check_power()
    }
}

/// An open database file.
#[derive(Debug)]
struct OpenFile {
    name: String,
    shared: Arc<Shared>,
}

impl OpenFile {
    fn file<'a>(&self, state: &'a mut State) -> io::Result<&'a mut File> {
        Ok(state.files.get_mut(&self.name).ok_or(io::ErrorKind::NotFound)?)
    }

    fn change(&self, change: impl FnOnce(&mut File)) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.check_power()?;
        fail_if(state.faults.write, "write")?;
        // What is written while the power goes may survive too.
        change(self.file(&mut state)?);
        state.count_operation()
    }

    fn wait_at_gate(&self, state: &mut MutexGuard<'_, State>) {
        state.syncs_waiting += 1;
        self.shared.sync_arrived.notify_all();
        while state.gates > 0 {
            self.shared.gate_opened.wait(state);
        }
        state.syncs_waiting -= 1;
    }
}

impl StorageBackend for OpenFile {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.shared.state.lock();
        state.check_power()?;
        Ok(self.file(&mut state)?.written.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.check_power()?;
        fail_if(state.faults.read, "read")?;
        let span = span(offset, out.len())?;
        out.copy_from_slice(self.file(&mut state)?.written.get(span).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.change(|file| file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.check_power()?;
        if state.gates > 0 {
            self.wait_at_gate(&mut state);
        }
        state.count_operation()?;
        fail_if(state.faults.sync, "sync")?;
        if state.faults.sync_lies {
            return Ok(());
        }
        self.file(&mut state)?.sync();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let span = span(offset, data.len())?;
        self.change(|file| file.write(span, data))
    }
}

impl File {
    fn write(&mut self, span: Range<usize>, data: &[u8]) {
        if span.end > self.written.len() {
            self.set_len(span.end);
        }
        self.written[span.clone()].copy_from_slice(data);
        self.note_versions(span);
    }

    fn set_len(&mut self, len: usize) {
        let before = self.written.len();
        // Bytes cut off read as zeros should the file grow again.
        if len < before {
            self.written[len..].fill(0);
            self.note_versions(len..before);
        }
        self.written.resize(len, 0);
        self.unsynced_lengths.push(len);
    }

    fn note_versions(&mut self, span: Range<usize>) {
        for sector in span.start / SECTOR_BYTES..span.end.div_ceil(SECTOR_BYTES) {
            let start = sector * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(self.written.len());
            let mut version = [0; SECTOR_BYTES];
            version[..end - start].copy_from_slice(&self.written[start..end]);
            self.unsynced_sectors.entry(sector).or_default().push(version);
        }
    }

    fn sync(&mut self) {
        self.synced.resize(self.written.len(), 0);
        for (sector, _) in std::mem::take(&mut self.unsynced_sectors) {
            let start = (sector * SECTOR_BYTES).min(self.written.len());
            let end = (start + SECTOR_BYTES).min(self.written.len());
            self.synced[start..end].copy_from_slice(&self.written[start..end]);
        }
        self.unsynced_lengths.clear();
    }

    /// What a power cut leaves: of every unsynced sector and of the length, the synced value or any written since.
    fn survivor(&self, random: &SeededRandom) -> Self {
        let mut bytes = self.synced.clone();
        for (sector, versions) in &self.unsynced_sectors {
            let Some(version) = one_of(random, versions.len() + 1).checked_sub(1) else { continue };
            let start = sector * SECTOR_BYTES;
            if bytes.len() < start + SECTOR_BYTES {
                bytes.resize(start + SECTOR_BYTES, 0);
            }
            bytes[start..start + SECTOR_BYTES].copy_from_slice(&versions[version]);
        }
        let len = match one_of(random, self.unsynced_lengths.len() + 1).checked_sub(1) {
            None => self.synced.len(),
            Some(change) => self.unsynced_lengths[change],
        };
        bytes.resize(len, 0);
        Self { written: bytes.clone(), synced: bytes, ..Self::default() }
    }
}

fn one_of(random: &SeededRandom, choices: usize) -> usize {
    (random.next_u64() % choices as u64) as usize
}

fn span(offset: u64, len: usize) -> io::Result<Range<usize>> {
    let start = usize::try_from(offset).map_err(io::Error::other)?;
    let end = start.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(start..end)
}

fn fail_if(fault: Option<io::ErrorKind>, what: &str) -> io::Result<()> {
    match fault {
        None => Ok(()),
        Some(kind) => Err(io::Error::new(kind, format!("injected {what} error: {kind}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(disk: &SimulatedDisk) -> Vec<u8> {
        let file = disk.open("f").unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read(0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn synced_bytes_survive_every_power_cut_and_unsynced_sectors_each_by_themselves() {
        let disk = SimulatedDisk::new();
        let file = disk.create("f");
        file.set_len(4 * 512).unwrap();
        file.write(0, &[1; 4 * 512]).unwrap();
        file.sync_data().unwrap();
        file.write(512, &[2; 2 * 512]).unwrap();
        file.write(1024, &[3; 512]).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let bytes = contents(&disk.power_cut(seed));
            assert_eq!(bytes.len(), 4 * 512);
            assert!(bytes.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])), "sectors are whole");
            assert_eq!((bytes[0], bytes[3 * 512]), (1, 1), "synced and untouched");
            seen.insert((bytes[512], bytes[1024]));
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]);
        assert_eq!(contents(&disk.process_killed())[1024], 3, "a killed process loses nothing");
    }

    #[test]
    fn unsynced_lengths_may_survive_or_not() {
        let disk = SimulatedDisk::new();
        let file = disk.create("f");
        file.write(0, &[1; 1024]).unwrap();
        file.sync_data().unwrap();
        file.set_len(100).unwrap();
        file.set_len(2000).unwrap();
        let lengths: std::collections::BTreeSet<usize> =
            (0..100).map(|seed| contents(&disk.power_cut(seed)).len()).collect();
        assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [100, 1024, 2000]);
        assert_eq!(contents(&disk)[100], 0, "bytes cut off come back as zeros");
        file.sync_data().unwrap();
        assert_eq!(contents(&disk.power_cut(1)), contents(&disk));
    }

    #[test]
    fn after_the_power_went_everything_fails_and_the_last_operation_is_in_doubt() {
        let disk = SimulatedDisk::new();
        let file = disk.create("f");
        file.write(0, &[1; 512]).unwrap();
        disk.cut_power_after(1);
        file.sync_data().unwrap();
        assert!(!disk.power_is_off());
        file.write(0, &[2; 512]).unwrap_err();
        assert!(disk.power_is_off());
        file.sync_data().unwrap_err();
        disk.write_small("s", b"x").unwrap_err();
        disk.open("f").unwrap_err();
        let survivors: std::collections::BTreeSet<u8> =
            (0..50).map(|seed| contents(&disk.power_cut(seed))[0]).collect();
        assert_eq!(survivors.into_iter().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn what_rots_is_a_few_bits_of_one_file() {
        let disk = SimulatedDisk::new();
        let file = disk.create("f");
        file.write(0, &[0; 512]).unwrap();
        file.sync_data().unwrap();
        disk.rot(3, 1);
        let flipped: u32 = contents(&disk).iter().map(|byte| byte.count_ones()).sum();
        assert!([1, 3].contains(&flipped), "a bit that flips twice is as before: {flipped}");
        assert_eq!(contents(&disk.power_cut(1)), contents(&disk), "it was synced like that");
        SimulatedDisk::new().rot(3, 1);
    }

    #[test]
    fn a_small_file_is_replaced_whole_or_not_at_all() {
        let disk = SimulatedDisk::new();
        disk.write_small("s", b"old").unwrap();
        disk.cut_power_after(0);
        disk.write_small("s", b"new").unwrap_err();
        let survivors: std::collections::BTreeSet<Vec<u8>> =
            (0..50).map(|seed| disk.power_cut(seed).read_small("s").unwrap().unwrap()).collect();
        assert_eq!(survivors.into_iter().collect::<Vec<_>>(), [b"new".to_vec(), b"old".to_vec()]);
    }

    #[test]
    fn faults_are_returned_until_they_are_lifted() {
        let disk = SimulatedDisk::new();
        let file = disk.create("f");
        disk.set_faults(Faults { write: Some(io::ErrorKind::StorageFull), ..Faults::default() });
        assert_eq!(file.write(0, b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
        disk.set_faults(Faults::default());
        file.write(0, b"x").unwrap();
        assert_eq!(contents(&disk), b"x");
    }
}
