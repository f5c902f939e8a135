//! What a credential allows: roles, each for all kinds or for some. Pure.

use std::collections::BTreeSet;

use crate::key::check_kind;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To see states, histories and kinds; on an admin port everything that is shown.
    Read,
    /// To run commands and to delete. Includes to read the same kinds, because commands answer with states.
    Write,
    /// To change the cluster, on an admin port. Includes everything else.
    Admin,
}

/// The roles of one credential.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    read: Scope,
    write: Scope,
    admin: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Scope {
    all: bool,
    kinds: BTreeSet<Box<str>>,
}

/// What is wrong with an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a role; roles are read, write and admin, or read:KIND and write:KIND for one kind")]
pub struct Error(String);

impl Grants {
    /// Everything.
    pub fn all() -> Self {
        Self { admin: true, ..Self::default() }
    }

    /// Of entries such as `read`, `write:cart` and `admin`.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let mut grants = Self::default();
        for entry in entries {
            if !grants.add(entry) {
                return Err(Error(entry.to_owned()));
            }
        }
        Ok(grants)
    }

    /// The same of a list in which other things may stand too.
    pub fn parse_known<'a>(entries: impl IntoIterator<Item = &'a str>) -> Self {
        let mut grants = Self::default();
        for entry in entries {
            grants.add(entry);
        }
        grants
    }

    /// Whether this is enough for `role` on `kind`; without a kind, on anything at all.
    pub fn allow(&self, role: Role, kind: Option<&str>) -> bool {
        let writes = || self.write.contains(kind);
        self.admin
            || match role {
                Role::Read => self.read.contains(kind) || writes(),
                Role::Write => writes(),
                Role::Admin => false,
            }
    }

    /// Whether this is enough for `role` on everything.
    pub fn allow_all(&self, role: Role) -> bool {
        self.admin
            || match role {
                Role::Read => self.read.all || self.write.all,
                Role::Write => self.write.all,
                Role::Admin => false,
            }
    }

    fn add(&mut self, entry: &str) -> bool {
        let (role, kind) = match entry.split_once(':') {
            Some((role, kind)) => (role, Some(kind)),
            None => (entry, None),
        };
        let scope = match role {
            "read" => &mut self.read,
            "write" => &mut self.write,
            "admin" if kind.is_none() => {
                self.admin = true;
                return true;
            }
            _ => return false,
        };
        match kind {
            None => scope.all = true,
            Some(kind) if check_kind(kind).is_ok() => _ = scope.kinds.insert(kind.into()),
            Some(_) => return false,
        }
        true
    }
}

impl Scope {
    fn contains(&self, kind: Option<&str>) -> bool {
        self.all || kind.map_or(!self.kinds.is_empty(), |kind| self.kinds.contains(kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(entries: &[&str]) -> String {
        let grants = Grants::parse(entries.iter().copied()).unwrap();
        let mut allowed = String::new();
        for (letter, role) in [('r', Role::Read), ('w', Role::Write), ('a', Role::Admin)] {
            for (number, kind) in [(' ', None), ('1', Some("cart")), ('2', Some("account"))] {
                if grants.allow(role, kind) {
                    allowed.extend([letter, number]);
                }
            }
        }
        allowed
    }

    #[test]
    fn a_role_of_one_kind_is_none_of_all() {
        let all = |entries: &[&str]| {
            let grants = Grants::parse(entries.iter().copied()).unwrap();
            [Role::Read, Role::Write, Role::Admin].map(|role| grants.allow_all(role))
        };
        assert_eq!(all(&["read:cart", "write:cart"]), [false, false, false]);
        assert_eq!(all(&["read", "write:cart"]), [true, false, false]);
        assert_eq!(all(&["write"]), [true, true, false]);
        assert_eq!(all(&["admin"]), [true, true, true]);
    }

    #[test]
    fn a_role_includes_what_it_needs_and_nothing_else() {
        for (entries, expected) in [
            (&[][..], ""),
            (&["read"], "r r1r2"),
            (&["write"], "r r1r2w w1w2"),
            (&["admin"], "r r1r2w w1w2a a1a2"),
            (&["read:cart"], "r r1"),
            (&["write:cart"], "r r1w w1"),
            (&["read", "write:cart"], "r r1r2w w1"),
            (&["read:cart", "read:account"], "r r1r2"),
        ] {
            assert_eq!(allowed(entries), expected, "{entries:?}");
        }
        assert!(Grants::all().allow(Role::Admin, None));
    }

    #[test]
    fn what_is_no_role_is_named() {
        for entry in ["", "owner", "Read", "read:", "read:Cart", "admin:cart", "write:cart:x", " read"] {
            assert_eq!(Grants::parse(["read", entry]), Err(Error(entry.to_owned())));
            assert_eq!(Grants::parse_known([entry]), Grants::default());
        }
    }
}
