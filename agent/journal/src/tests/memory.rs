//! A disk in memory that can lose what was not synced, fill up, fail and rot.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::{Disk, DiskFile, Mode};

#[derive(Debug, Default)]
pub(super) struct MemoryDisk {
    world: Arc<Mutex<World>>,
}

#[derive(Debug, Default)]
pub(super) struct World {
    files: BTreeMap<PathBuf, Content>,
    /// Bytes of all files together that the disk can hold; 0: endless.
    pub(super) capacity: usize,
    pub(super) read_only: bool,
    /// The next so many fdatasyncs of segments fail.
    pub(super) failing_syncs: u32,
    /// The next write stores only half of its bytes and then fails with this.
    pub(super) torn_write: Option<io::ErrorKind>,
    pub(super) failing_truncates: bool,
    /// Sectors that cannot be read.
    pub(super) bad_sectors: BTreeSet<(PathBuf, u64)>,
}

#[derive(Debug, Default, Clone)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
    allocated: usize,
}

impl World {
    pub(super) fn used(&self) -> usize {
        self.files.values().map(|content| content.now.len().max(content.allocated)).sum()
    }

    pub(super) fn segments(&self) -> Vec<PathBuf> {
        let in_stream = |path: &&PathBuf| !path.to_string_lossy().contains("quarantine");
        self.files
            .keys()
            .filter(in_stream)
            .filter(|path| path.extension().is_some_and(|end| end == "seg"))
            .cloned()
            .collect()
    }

    pub(super) fn len(&self, path: &Path) -> usize {
        self.files[path].now.len()
    }

    /// Rot: on the disk and in the cache alike.
    pub(super) fn flip(&mut self, path: &Path, at: usize) {
        let content = self.files.get_mut(path).unwrap();
        content.now[at] ^= 0x55;
        if let Some(byte) = content.synced.get_mut(at) {
            *byte ^= 0x55;
        }
    }

    pub(super) fn cut(&mut self, path: &Path, len: usize) {
        let content = self.files.get_mut(path).unwrap();
        content.now.truncate(len);
        content.synced.truncate(len);
    }

    pub(super) fn remove(&mut self, path: &Path) {
        self.files.remove(path);
    }

    /// The power goes. Of what was not synced, the first `kept` bytes of each file's change have reached the disk.
    pub(super) fn power_cut(&mut self, kept: usize) {
        for content in self.files.values_mut() {
            let mut after = content.synced.clone();
            if content.now.len() > after.len() {
                let end = content.now.len().min(after.len() + kept);
                after.extend_from_slice(&content.now[after.len()..end]);
            }
            content.now.clone_from(&after);
            content.synced = after;
        }
        (self.failing_syncs, self.torn_write) = (0, None);
    }
}

impl MemoryDisk {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn writable(&self) -> io::Result<MutexGuard<'_, World>> {
        let world = self.world();
        if world.read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(world) }
    }
}

// Names are durable at once: what an unsynced directory can lose is for the power-cut rig on a real file system.
impl Disk for MemoryDisk {
    fn create_dirs(&self, dir: &Path) -> io::Result<()> {
        self.writable().map(|_| ())?;
        // The lock and the index live on the real disk.
        std::fs::create_dir_all(dir)
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = BTreeSet::new();
        for path in self.world().files.keys() {
            let below = path.strip_prefix(dir).ok().and_then(|below| below.components().next());
            names.extend(below.map(|name| name.as_os_str().to_string_lossy().into_owned()));
        }
        Ok(names.into_iter().collect())
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn DiskFile>> {
        let mut world = if mode == Mode::Read { self.world() } else { self.writable()? };
        if mode == Mode::Create {
            let content = world.files.entry(path.to_path_buf()).or_default();
            (content.now, content.allocated) = (Vec::new(), 0);
            content.synced = Vec::new();
        }
        if !world.files.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Box::new(MemoryFile { world: Arc::clone(&self.world), path: path.to_path_buf() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.writable()?;
        let content = world.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        world.files.insert(to.to_path_buf(), content);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.writable()?.files.remove(path).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryFile {
    world: Arc<Mutex<World>>,
    path: PathBuf,
}

impl MemoryFile {
    /// A file that was removed can be used by whoever has it open, to no effect.
    fn with<T: Default>(&self, act: impl FnOnce(&mut World, &mut Content) -> io::Result<T>) -> io::Result<T> {
        let mut world = self.world.lock().unwrap();
        let Some(mut content) = world.files.get(&self.path).cloned() else {
            return Ok(T::default());
        };
        let result = act(&mut world, &mut content);
        world.files.insert(self.path.clone(), content);
        result
    }

    fn is_segment(&self) -> bool {
        self.path.extension().is_some_and(|end| end == "seg")
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|world, content| {
            let offset = usize::try_from(offset).unwrap();
            let len = buffer.len().min(content.now.len().saturating_sub(offset));
            for sector in offset / 4096..=(offset + len).saturating_sub(1).max(offset) / 4096 {
                if world.bad_sectors.contains(&(self.path.clone(), u64::try_from(sector).unwrap())) {
                    return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
                }
            }
            if len > 0 {
                buffer[..len].copy_from_slice(&content.now[offset..offset + len]);
            }
            Ok(len)
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.with(|world, content| {
            let offset = usize::try_from(offset).unwrap();
            let room =
                if world.capacity == 0 { usize::MAX } else { world.capacity.saturating_sub(world.used()) };
            let grows = (offset + bytes.len()).saturating_sub(content.now.len().max(content.allocated));
            let mut len = bytes.len() - grows.saturating_sub(room);
            if let Some(kind) = world.torn_write.filter(|_| self.is_segment()) {
                if bytes.len() <= 1 {
                    world.torn_write = None;
                    return Err(kind.into());
                }
                len = len.min(bytes.len() / 2);
            }
            if len == 0 && !bytes.is_empty() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            if content.now.len() < offset + len {
                content.now.resize(offset + len, 0);
            }
            content.now[offset..offset + len].copy_from_slice(&bytes[..len]);
            Ok(len)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|world, content| {
            if self.is_segment() && world.failing_syncs > 0 {
                world.failing_syncs -= 1;
                return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
            }
            content.synced.clone_from(&content.now);
            Ok(())
        })
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.with(|world, content| {
            if world.failing_truncates {
                return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
            }
            content.now.truncate(usize::try_from(len).unwrap());
            Ok(())
        })
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.with(|world, content| {
            let len = usize::try_from(len).unwrap();
            if world.capacity > 0 && world.used() + len > world.capacity {
                return Err(io::ErrorKind::StorageFull.into());
            }
            content.allocated = len;
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|_, content| Ok(u64::try_from(content.now.len().max(content.allocated)).unwrap()))
    }
}
