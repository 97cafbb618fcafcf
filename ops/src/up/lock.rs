//! Locks that the kernel lets go when their holder dies.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

/// A held lock.
pub struct Lock {
    _file: File,
}

const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Lock {
    /// Takes a lock at once, or not at all: `None` when somebody holds it.
    pub fn try_take(path: &Path) -> std::io::Result<Option<Lock>> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Takes a lock, waiting for its holder.
    pub fn take(path: &Path) -> std::io::Result<Lock> {
        let file = open(path)?;
        file.lock()?;
        Ok(Lock { _file: file })
    }

    /// Waits until nobody holds a lock, but not for ever; tells whether that came true.
    pub async fn wait_until_free(path: &Path, patience: Duration) -> std::io::Result<bool> {
        let begun = Instant::now();
        loop {
            if Lock::try_take(path)?.is_some() {
                return Ok(true);
            }
            if begun.elapsed() > patience {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lock_has_one_holder_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = Lock::try_take(&path).unwrap().unwrap();
        assert!(Lock::try_take(&path).unwrap().is_none());
        assert!(!Lock::wait_until_free(&path, Duration::ZERO).await.unwrap());
        drop(held);
        assert!(Lock::wait_until_free(&path, Duration::ZERO).await.unwrap());
    }
}
