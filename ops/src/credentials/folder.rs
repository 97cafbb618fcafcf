//! The folder of credentials: a folder for each user with its secret, and one for the server.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nkeys::KeyPair;

use super::permissions::{Subscriber, User};
use crate::exit::Failure;

/// Folder of the extra consumers' folders.
const SUBSCRIBERS: &str = "consumers";

/// File with a user's secret.
const SEED: &str = "seed";

/// File with the streams that an extra consumer may read, one a line.
const STREAMS: &str = "streams";

/// The folder.
pub struct Folder {
    root: PathBuf,
}

/// A user's key pair.
pub struct Key {
    /// What the server knows of it.
    pub public: String,
    /// File with the secret.
    pub file: PathBuf,
    /// It was not there before.
    pub is_new: bool,
}

impl Folder {
    /// Takes a folder; nothing needs to be there.
    pub fn new(root: &Path) -> Folder {
        Folder { root: root.to_owned() }
    }

    /// Returns the file that nats.conf includes.
    pub fn server_file(&self) -> PathBuf {
        self.root.join("server").join("users.conf")
    }

    /// Returns the file with the secret of one of Rollcall's own users.
    pub fn seed_of(&self, user: &User) -> PathBuf {
        self.root.join(&user.name).join(SEED)
    }

    /// Returns the file with the secret of an extra consumer.
    pub fn seed_of_subscriber(&self, subscriber: &Subscriber) -> PathBuf {
        self.subscriber(&subscriber.name).join(SEED)
    }

    fn subscriber(&self, name: &str) -> PathBuf {
        self.root.join(SUBSCRIBERS).join(name)
    }

    /// Returns the extra consumers that are known already, one whose secret is to be replaced among them.
    pub fn subscribers(&self) -> Result<Vec<Subscriber>, Failure> {
        let folder = self.root.join(SUBSCRIBERS);
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let entries = std::fs::read_dir(&folder).map_err(|error| cannot("read", &folder, &error))?;
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| cannot("read", &folder, &error))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if [SEED, STREAMS].iter().any(|file| path.join(file).is_file()) {
                found.push(read_subscriber(&path, name)?);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Keeps what an extra consumer may read.
    pub fn keep(&self, subscriber: &Subscriber) -> Result<(), Failure> {
        write(&self.subscriber(&subscriber.name).join(STREAMS), &subscriber.streams.join("\n"), 0o600)
    }

    /// Writes the file that nats.conf includes. It holds no secret, and the server may be another user.
    pub fn write_server_file(&self, text: &str) -> Result<(), Failure> {
        write(&self.server_file(), text, 0o644)
    }
}

fn read_subscriber(folder: &Path, name: &str) -> Result<Subscriber, Failure> {
    let file = folder.join(STREAMS);
    let streams = std::fs::read_to_string(&file).map_err(|error| cannot("read", &file, &error))?;
    let streams: Vec<&str> = streams.split_whitespace().collect();
    Subscriber::parse(&format!("{name}:{}", streams.join(","))).map_err(|reason| {
        Failure::trouble(format!("{}: {reason}", file.display())).remedy(
            "Name the streams that it may read there, one a line, or remove the folder to shut it out",
        )
    })
}

/// Reads the key pair of a file, or makes one; `dry` makes no file.
pub fn key(file: &Path, dry: bool) -> Result<Key, Failure> {
    let made = |public: String, is_new: bool| Key { public, file: file.to_owned(), is_new };
    match std::fs::read_to_string(file) {
        Ok(seed) => {
            let pair = KeyPair::from_seed(seed.trim()).map_err(|_| {
                let action = "Remove it, and run the command again to have a new one";
                Failure::trouble(format!("{} holds no seed of an nkey", file.display())).remedy(action)
            })?;
            Ok(made(pair.public_key(), false))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let pair = KeyPair::new_user();
            if !dry {
                let seed = pair.seed().map_err(|_| Failure::trouble("Cannot make a key"))?;
                write(file, &seed, 0o600)?;
            }
            Ok(made(pair.public_key(), true))
        }
        Err(error) => Err(cannot("read", file, &error)),
    }
}

/// Replaces a file as a whole, so that a server that reads it meanwhile sees the old one or the new one.
fn write(file: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .map_err(|error| cannot("make", folder, &error))?;
    let fresh = file.with_extension("fresh");
    let _left_by_a_killed_run = std::fs::remove_file(&fresh);
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&fresh)
        .and_then(|mut open| {
            writeln!(open, "{}", text.trim_end())?;
            open.sync_all()
        })
        .and_then(|()| std::fs::rename(&fresh, file));
    written.map_err(|error| cannot("write", file, &error))
}

fn cannot(verb: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::environment(format!("Cannot {verb} {}: {error}", path.display()))
}
