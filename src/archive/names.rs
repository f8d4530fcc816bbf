//! What a member's name may be, and which names can follow on those seen before.
//!
//! Names are bytes. One canonical form stands for every spelling of a path, and no name leads
//! out of the archive, through a link, or below a file. Memory is one hash for a member: names
//! themselves are not kept.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};

use crate::archive::limits::{MAX_COMPONENT, MAX_DEPTH, MAX_NAME};

/// Why a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Danger {
    /// It has a `..` component.
    Parent,
    /// It runs through a link that the archive has.
    ThroughLink,
    /// It has more than 4096 bytes.
    TooLong,
    /// A component has more than 255 bytes.
    ComponentTooLong,
    /// It has more than 64 components.
    TooDeep,
}

impl fmt::Display for Danger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Danger::Parent => "has a `..` component",
            Danger::ThroughLink => "runs through a link",
            Danger::TooLong => "is over 4096 bytes",
            Danger::ComponentTooLong => "has a component over 255 bytes",
            Danger::TooDeep => "is over 64 directories deep",
        })
    }
}

/// Puts the canonical form of `name` into `canonical`: components joined by one slash, none of
/// them empty or `.`. It is empty for the root of the archive.
pub(super) fn canonicalise(name: &[u8], canonical: &mut Vec<u8>) -> Result<(), Danger> {
    canonical.clear();
    let mut depth = 0;
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(Danger::Parent),
            _ if component.len() > MAX_COMPONENT => return Err(Danger::ComponentTooLong),
            _ => {}
        }
        depth += 1;
        if !canonical.is_empty() {
            canonical.push(b'/');
        }
        canonical.extend_from_slice(component);
        // Checked on the way, so that a name of 1 MiB costs no more than one that is allowed.
        if canonical.len() > MAX_NAME {
            return Err(Danger::TooLong);
        }
        if depth > MAX_DEPTH {
            return Err(Danger::TooDeep);
        }
    }
    Ok(())
}

/// What became of a name when it was held against those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It may stand there.
    Free,
    /// One of its directories is a file.
    BelowFile,
    /// One of its directories is a link.
    ThroughLink,
}

/// What a name stands for, as far as later names care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Directory,
    File,
    Link,
}

/// The names of an archive so far, as keyed hashes: nobody outside can make two of them meet,
/// and by chance it happens once in some 10^8 archives of the largest kind.
#[derive(Default)]
pub(super) struct Seen {
    hashes: RandomState,
    files: HashSet<u64>,
    links: HashSet<u64>,
    /// The directory of the name before. Members of one directory follow each other, and a name
    /// cannot change what its own directory is.
    checked: Vec<u8>,
}

impl Seen {
    /// Holds a canonical name against those before it.
    pub(super) fn place(&mut self, name: &[u8]) -> Place {
        let slash = name.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let directory = name.get(..slash).unwrap_or_default();
        if directory == self.checked {
            return Place::Free;
        }
        for hash in self.prefix_hashes(directory) {
            if self.links.contains(&hash) {
                return Place::ThroughLink;
            }
            if self.files.contains(&hash) {
                return Place::BelowFile;
            }
        }
        self.checked.clear();
        self.checked.extend_from_slice(directory);
        Place::Free
    }

    /// Remembers what a canonical name stands for. A link stays one whatever comes later; else
    /// the last one wins.
    pub(super) fn add(&mut self, name: &[u8], role: Role) {
        let Some(hash) = self.prefix_hashes(name).last() else {
            return;
        };
        match role {
            Role::File => {
                self.files.insert(hash);
            }
            Role::Directory => {
                self.files.remove(&hash);
            }
            Role::Link => {
                self.links.insert(hash);
            }
        }
    }

    /// The hashes of a name's first component, of its first two, and so on to the whole name.
    fn prefix_hashes<'n>(&self, name: &'n [u8]) -> impl Iterator<Item = u64> + use<'n> {
        let mut hasher = self.hashes.build_hasher();
        let components = name
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty());
        components.map(move |component| {
            hasher.write(component);
            hasher.write_u8(b'/');
            hasher.finish()
        })
    }
}

/// The directory that every name so far lies below, if there is one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Top {
    /// No name yet.
    #[default]
    Unknown,
    /// All names are this directory or lie below it; whether some do.
    Common(Vec<u8>, bool),
    /// Two names differ in their first component, or it is a file, or it is `config`.
    None,
}

impl Top {
    /// Takes a further canonical name into account; gives the name without the common directory
    /// when there still is one and the name lies below it.
    pub(super) fn add<'n>(&mut self, name: &'n [u8], role: Role) -> Option<&'n [u8]> {
        let slash = name.iter().position(|byte| *byte == b'/');
        let first = name.get(..slash.unwrap_or(name.len())).unwrap_or_default();
        let below = slash.and_then(|slash| name.get(slash + 1..));
        if first == b"config" || (below.is_none() && role != Role::Directory) {
            *self = Top::None;
        }
        match self {
            Top::None => return None,
            Top::Unknown => *self = Top::Common(first.to_vec(), below.is_some()),
            Top::Common(common, some) if *common == first => *some |= below.is_some(),
            Top::Common(..) => *self = Top::None,
        }
        if *self == Top::None { None } else { below }
    }

    /// Length of the prefix that is dropped from every name.
    pub(super) fn prefix(&self) -> usize {
        match self {
            Top::Common(common, true) => common.len() + 1,
            Top::Common(_, false) | Top::Unknown | Top::None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(name: &[u8]) -> Result<Vec<u8>, Danger> {
        let mut out = Vec::new();
        canonicalise(name, &mut out).map(|()| out)
    }

    #[test]
    fn every_spelling_has_one_form() {
        for name in [
            "a/b",
            "./a/b",
            "a//b",
            "a/./b",
            "/a/b",
            "//a/b/",
            "a/b/.",
            "././a///b//",
        ] {
            assert_eq!(canonical(name.as_bytes()).unwrap(), b"a/b", "{name}");
        }
        for name in ["", ".", "./", "/", "//./"] {
            assert_eq!(canonical(name.as_bytes()).unwrap(), b"", "{name}");
        }
    }

    #[test]
    fn parents_are_refused_and_dots_in_names_are_not() {
        for name in ["..", "../a", "a/..", "a/../b", "/..", "./../a"] {
            assert_eq!(canonical(name.as_bytes()), Err(Danger::Parent), "{name}");
        }
        assert_eq!(canonical(b"..a/b../...").unwrap(), b"..a/b../...");
    }

    #[test]
    fn lengths_hold_up_to_and_including() {
        assert!(canonical(&[b'a'; MAX_COMPONENT]).is_ok());
        assert_eq!(
            canonical(&[b'a'; MAX_COMPONENT + 1]),
            Err(Danger::ComponentTooLong)
        );

        assert!(canonical(&b"a/".repeat(MAX_DEPTH)).is_ok());
        assert_eq!(
            canonical(&b"a/".repeat(MAX_DEPTH + 1)),
            Err(Danger::TooDeep)
        );

        let mut long = [[b'a'; MAX_COMPONENT].as_slice(); 16].join(&b'/');
        assert_eq!(long.len(), MAX_NAME - 1);
        assert!(canonical(&long).is_ok());
        // One more component would need a slash and a byte, so the bound itself is not met.
        long.extend_from_slice(b"/a");
        assert_eq!(canonical(&long), Err(Danger::TooLong));
    }

    #[test]
    fn a_name_of_exactly_the_limit_is_allowed() {
        let mut name = [[b'a'; 254].as_slice(); 16].join(&b'/');
        name.extend_from_slice(b"/");
        name.resize(MAX_NAME, b'b');
        assert_eq!(name.len(), MAX_NAME);
        assert!(canonical(&name).is_ok());
        name.push(b'b');
        assert_eq!(canonical(&name), Err(Danger::TooLong));
    }

    #[test]
    fn the_common_directory_needs_every_member() {
        let top = |names: &[(&str, Role)]| {
            let mut top = Top::default();
            for (name, role) in names {
                top.add(name.as_bytes(), *role);
            }
            top.prefix()
        };
        assert_eq!(
            top(&[("t", Role::Directory), ("t/config/id", Role::File)]),
            2
        );
        assert_eq!(top(&[("t/a", Role::File), ("t", Role::Directory)]), 2);
        assert_eq!(top(&[("t/a", Role::File), ("u", Role::Link)]), 0);
        assert_eq!(top(&[("t/a", Role::File), ("t", Role::File)]), 0);
        assert_eq!(top(&[("config/a", Role::File)]), 0);
        assert_eq!(top(&[("t", Role::Directory)]), 0);
        assert_eq!(top(&[]), 0);
    }
}
