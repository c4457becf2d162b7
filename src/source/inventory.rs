//! The objects of one class directory of sysfs, remembered from one reading to the next.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Error;
use super::files::list;

/// The objects of a class directory, by name.
///
/// An object that did not change since the last reading keeps its allocation. An object that cannot
/// be read keeps its last state. If an object is replaced by another one of the same name, nothing
/// is kept.
#[derive(Debug)]
pub(crate) struct Inventory<Object> {
    class: PathBuf,
    known: BTreeMap<Arc<str>, KnownObject<Object>>,
}

#[derive(Debug)]
struct KnownObject<Object> {
    inode: u64,
    object: Arc<Object>,
}

impl<Object: PartialEq> Inventory<Object> {
    pub(crate) fn new(class: PathBuf) -> Self {
        Inventory { class, known: BTreeMap::new() }
    }

    /// Reads each object. `read` receives the object's directory, its name, its last state, and a
    /// list for the errors of single values. It returns `None` for an object that is gone or does
    /// not count.
    ///
    /// # Errors
    /// If the directory exists and cannot be listed.
    pub(crate) fn read(
        &mut self,
        unreadable: &mut Vec<Error>,
        mut read: impl FnMut(&Path, &Arc<str>, Option<&Object>, &mut Vec<Error>) -> Result<Option<Object>, Error>,
    ) -> Result<(), Error> {
        let entries = list(&self.class)?;
        let mut before = std::mem::take(&mut self.known);
        for entry in entries {
            let (name, last) = match before.remove_entry(entry.name.as_str()) {
                Some((name, known)) if known.inode == entry.inode => (name, Some(known.object)),
                _ => (entry.name.as_str().into(), None),
            };
            let object = match read(&self.class.join(&*name), &name, last.as_deref(), unreadable) {
                Ok(now) => now.map(|now| last.filter(|last| **last == now).unwrap_or_else(|| Arc::new(now))),
                Err(error) => {
                    unreadable.push(error);
                    last
                }
            };
            if let Some(object) = object {
                self.known.insert(name, KnownObject { inode: entry.inode, object });
            }
        }
        Ok(())
    }

    /// Returns an object as last read.
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Object>> {
        self.known.get(name).map(|known| &known.object)
    }

    /// Returns all objects with their names, sorted by name.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Object>)> {
        self.known.iter().map(|(name, known)| (name, &known.object))
    }

    /// Returns all objects, sorted by name.
    pub(crate) fn all(&self) -> Vec<Arc<Object>> {
        self.known.values().map(|known| Arc::clone(&known.object)).collect()
    }
}
