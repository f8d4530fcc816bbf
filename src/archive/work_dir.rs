//! The directory that this process works in, and the removal of those that others left behind.
//!
//! A live process holds a lock in its directory; the kernel gives it up however the process ends.
//! So a directory whose lock can be taken belongs to nobody.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

const PREFIX: &str = "ccx-data-pipeline-";
const LOCK: &str = "lock";
/// A directory without a lock file may be one that is being made right now.
const UNLOCKED_FOR: Duration = Duration::from_secs(600);

/// A private directory, removed when it is dropped.
#[derive(Debug)]
pub struct WorkDir {
    // Before the lock: fields are dropped in this order, and who can take the lock removes.
    dir: TempDir,
    _lock: File,
}

/// A work directory could not be made.
#[derive(Debug, thiserror::Error)]
#[error("no work directory can be made in {} (engine.extract_tmp_dir)", base.display())]
pub struct Error {
    base: PathBuf,
    source: io::Error,
}

impl Error {
    /// Whether it may be made later: see [`may_pass`].
    pub fn may_pass(&self) -> bool {
        may_pass(&self.source)
    }
}

/// Whether something that cannot be written now may be written later at the same place, without
/// anybody's changing the configuration: the disk is full, or descriptors or memory are short.
pub fn may_pass(error: &io::Error) -> bool {
    use io::ErrorKind::{OutOfMemory, QuotaExceeded, StorageFull};
    // ENFILE, EMFILE; numbers of Linux.
    const DESCRIPTORS: [i32; 2] = [23, 24];
    matches!(error.kind(), StorageFull | QuotaExceeded | OutOfMemory)
        || error
            .raw_os_error()
            .is_some_and(|number| DESCRIPTORS.contains(&number))
}

impl WorkDir {
    /// Makes `ccx-data-pipeline-XXXXXX` in `base`, with mode 0700 and a lock that is held.
    ///
    /// # Errors
    ///
    /// `base` is not there or not writable.
    pub fn create(base: &Path) -> Result<WorkDir, Error> {
        try_create(base).map_err(|source| Error {
            base: base.to_owned(),
            source,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Removes the work directories in `base` whose process is gone; gives their number. What
    /// cannot be read or removed, such as the directory of another user, is left.
    ///
    /// # Errors
    ///
    /// `base` cannot be listed.
    pub fn sweep(base: &Path) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(base)? {
            let Ok(entry) = entry else { continue };
            let named = entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.starts_with(PREFIX));
            if named && remove_if_left(&entry.path()).is_ok_and(|gone| gone) {
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Makes a work directory of this process again, at its place, if somebody has removed it. Without
/// its lock file, so that another process may sweep it when it is old; then it is made once more.
///
/// # Errors
///
/// Its base is gone or not writable.
pub fn restore(dir: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome,
    }
}

fn try_create(base: &Path) -> io::Result<WorkDir> {
    // A sweep of another process may take the new directory before its lock is held.
    for _ in 0..10 {
        let dir = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(base)?;
        let path = dir.path().join(LOCK);
        let lock = match OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
        {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // The lock counts only when it is on the file that others find.
        if fs::metadata(&path).is_ok_and(|found| is_same(&found, &lock)) {
            return Ok(WorkDir { dir, _lock: lock });
        }
    }
    Err(io::Error::other("every new directory was removed at once"))
}

fn is_same(found: &fs::Metadata, lock: &File) -> bool {
    lock.metadata()
        .is_ok_and(|ours| ours.dev() == found.dev() && ours.ino() == found.ino())
}

/// Removes a work directory that no process holds; whether it did.
fn remove_if_left(dir: &Path) -> io::Result<bool> {
    let found = fs::symlink_metadata(dir)?;
    // Everybody may write to a common base: a link, or a directory that others can write to, is
    // not one of ours.
    if !found.is_dir() || found.mode() & 0o777 != 0o700 {
        return Ok(false);
    }
    let path = dir.join(LOCK);
    let lock = match fs::symlink_metadata(&path) {
        Ok(lock) if lock.is_file() => Some(OpenOptions::new().write(true).open(&path)?),
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    match &lock {
        None => {
            let age = SystemTime::now()
                .duration_since(found.modified()?)
                .unwrap_or_default();
            if age < UNLOCKED_FOR {
                return Ok(false);
            }
        }
        Some(lock) => match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        },
    }
    fs::remove_dir_all(dir)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left_behind(base: &Path) -> PathBuf {
        let dir = base.join("ccx-data-pipeline-killed");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
        fs::write(dir.join("document"), b"x").unwrap();
        dir
    }

    #[test]
    fn p08_p10_only_what_may_pass_is_waited_for() {
        let error = io::Error::from_raw_os_error;
        // ENOMEM, ENFILE, EMFILE, ENOSPC, EDQUOT; numbers of Linux.
        for number in [12, 23, 24, 28, 122] {
            assert!(may_pass(&error(number)), "{}", error(number));
        }
        // ENOENT, EACCES, ENOTDIR, EROFS.
        for number in [2, 13, 20, 30] {
            assert!(!may_pass(&error(number)), "{}", error(number));
        }
    }

    #[test]
    fn is_private_and_goes_when_dropped() {
        let base = tempfile::tempdir().unwrap();
        let dir = WorkDir::create(base.path()).unwrap();
        let mode = fs::metadata(dir.path()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
        let name = dir.path().file_name().unwrap().to_str().unwrap().to_owned();
        assert!(
            name.starts_with(PREFIX) && name.len() == PREFIX.len() + 6,
            "{name}"
        );
        drop(dir);
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn sweep_takes_what_nobody_holds() {
        let base = tempfile::tempdir().unwrap();
        let live = WorkDir::create(base.path()).unwrap();
        let dead = left_behind(base.path());
        fs::write(dead.join(LOCK), b"").unwrap();
        let other = base.path().join("somebody-else");
        fs::create_dir(&other).unwrap();

        assert_eq!(WorkDir::sweep(base.path()).unwrap(), 1);
        assert!(!dead.exists());
        assert!(live.path().join(LOCK).exists());
        assert!(other.exists());
    }

    #[test]
    fn p08_a_directory_that_is_gone_is_made_again_as_private_as_before() {
        let base = tempfile::tempdir().unwrap();
        let work = WorkDir::create(base.path()).unwrap();
        let mode = || fs::metadata(work.path()).unwrap().mode() & 0o777;
        // It is there still.
        restore(work.path()).unwrap();
        assert!(work.path().join(LOCK).exists());
        fs::remove_dir_all(work.path()).unwrap();
        restore(work.path()).unwrap();
        assert_eq!(mode(), 0o700);
        fs::remove_dir_all(base.path()).unwrap();
        restore(work.path()).unwrap_err();
    }

    #[test]
    fn sweep_leaves_a_directory_that_is_being_made() {
        let base = tempfile::tempdir().unwrap();
        let young = left_behind(base.path());
        assert_eq!(WorkDir::sweep(base.path()).unwrap(), 0);
        assert!(young.exists());

        let long_ago = SystemTime::now() - 2 * UNLOCKED_FOR;
        File::open(&young).unwrap().set_modified(long_ago).unwrap();
        assert_eq!(WorkDir::sweep(base.path()).unwrap(), 1);
        assert!(!young.exists());
    }

    #[test]
    fn sweep_follows_no_link() {
        let base = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join(LOCK), b"").unwrap();
        let link = base.path().join("ccx-data-pipeline-linked");
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();

        let with_link = left_behind(base.path());
        std::os::unix::fs::symlink(elsewhere.path().join(LOCK), with_link.join(LOCK)).unwrap();

        assert_eq!(WorkDir::sweep(base.path()).unwrap(), 0);
        assert!(elsewhere.path().join(LOCK).exists());
        assert!(with_link.exists());
    }

    #[test]
    fn a_base_that_cannot_be_used_is_named_with_its_key() {
        let base = tempfile::tempdir().unwrap();
        let error = WorkDir::create(&base.path().join("missing")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("missing") && text.contains("engine.extract_tmp_dir"),
            "{text}"
        );
    }
}
