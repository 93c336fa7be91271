//! Keys and grants as the catalog has them at one moment, and what follows from them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::model::{
    ApiKey, Caller, Grant, NamespaceId, Object, Role, STORED_SEPARATOR as SEPARATOR, TableId,
};

#[derive(Default)]
pub(super) struct Known {
    pub(super) epoch: i64,
    keys: HashMap<String, ApiKey>,
    of: HashMap<String, Roles>,
}

/// The roles of one principal, by the stored paths of what they are on.
#[derive(Default)]
struct Roles {
    namespaces: BTreeMap<String, Role>,
    tables: BTreeMap<String, Role>,
}

/// What a caller sees of the children of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    All,
    Only { namespaces: BTreeSet<String>, tables: BTreeSet<String> },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Allowed,
    /// They see it, and need another role.
    Forbidden,
    /// For them it is not there.
    Unseen,
}

impl Known {
    pub(super) fn new(epoch: i64, keys: Vec<ApiKey>, grants: Vec<Grant>) -> Self {
        let keys = keys.into_iter().map(|key| (key.id.clone(), key)).collect();
        let mut of: HashMap<String, Roles> = HashMap::new();
        for grant in grants {
            let roles = of.entry(grant.principal).or_default();
            let (paths, path) = match &grant.object {
                Object::Namespace(id) => (&mut roles.namespaces, id.to_stored()),
                Object::Table(id) => (&mut roles.tables, id.to_stored()),
            };
            // The settings and the catalog may grant on the same.
            let role = paths.entry(path).or_insert(grant.role);
            *role = grant.role.max(*role);
        }
        Self { epoch, keys, of }
    }

    pub(super) fn key(&self, id: &str) -> Option<&ApiKey> {
        self.keys.get(id)
    }

    fn roles_of<'a>(&'a self, caller: &'a Caller) -> impl Iterator<Item = &'a Roles> {
        caller.principals().filter_map(|principal| self.of.get(principal))
    }

    pub(super) fn role_on_namespace(&self, caller: &Caller, id: &NamespaceId) -> Option<Role> {
        let path = id.to_stored();
        let above = path.match_indices(SEPARATOR).map(|(at, _)| &path[..at]);
        let all: Vec<&str> = [""].into_iter().chain(above).chain([path.as_str()]).collect();
        let roles = self.roles_of(caller);
        roles
            .flat_map(|roles| all.iter().filter_map(|path| roles.namespaces.get(*path)))
            .max()
            .copied()
    }

    pub(super) fn role_on_table(&self, caller: &Caller, id: &TableId) -> Option<Role> {
        let inherited = self.role_on_namespace(caller, &id.namespace);
        let path = id.to_stored();
        let own = self.roles_of(caller).filter_map(|roles| roles.tables.get(&path)).max();
        inherited.max(own.copied())
    }

    pub(super) fn role_on(&self, caller: &Caller, object: &Object) -> Option<Role> {
        match object {
            Object::Namespace(id) => self.role_on_namespace(caller, id),
            Object::Table(id) => self.role_on_table(caller, id),
        }
    }

    pub(super) fn decide(&self, caller: &Caller, role: Role, object: &Object) -> Decision {
        let sees = match self.role_on(caller, object) {
            Some(has) if has >= role => return Decision::Allowed,
            Some(_) => true,
            None => match object {
                Object::Namespace(id) => self.sees_namespace(caller, id),
                Object::Table(_) => false,
            },
        };
        if sees { Decision::Forbidden } else { Decision::Unseen }
    }

    /// Whether something is granted on a namespace, on one that it is in, or on anything within it.
    /// Everybody sees the root.
    pub(super) fn sees_namespace(&self, caller: &Caller, id: &NamespaceId) -> bool {
        if id.is_root() || self.role_on_namespace(caller, id).is_some() {
            return true;
        }
        self.roles_of(caller).any(|roles| {
            within(&roles.namespaces, id).next().is_some()
                || within(&roles.tables, id).next().is_some()
        })
    }

    pub(super) fn seen_in(&self, caller: &Caller, id: &NamespaceId) -> Seen {
        if self.role_on_namespace(caller, id).is_some() {
            return Seen::All;
        }
        let (mut namespaces, mut tables) = (BTreeSet::new(), BTreeSet::new());
        for roles in self.roles_of(caller) {
            for names in within(&roles.namespaces, id) {
                namespaces.insert(first(names).to_owned());
            }
            for names in within(&roles.tables, id) {
                let is_child = !names.contains(SEPARATOR);
                if is_child { &mut tables } else { &mut namespaces }
                    .insert(first(names).to_owned());
            }
        }
        Seen::Only { namespaces, tables }
    }
}

/// The paths within a namespace, from there on.
fn within<'a>(
    paths: &'a BTreeMap<String, Role>,
    id: &NamespaceId,
) -> impl Iterator<Item = &'a str> {
    let start = id.stored_start();
    let length = start.len();
    let from = paths.range(start.clone()..).map(|(path, _)| path.as_str());
    let rest =
        from.take_while(move |path| path.starts_with(&start)).map(move |path| &path[length..]);
    rest.filter(|names| !names.is_empty())
}

fn first(names: &str) -> &str {
    names.split(SEPARATOR).next().unwrap_or(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(names: &[&str]) -> NamespaceId {
        NamespaceId::from_list(&names.iter().map(|name| name.to_string()).collect::<Vec<_>>())
            .unwrap()
    }

    fn table(names: &[&str]) -> TableId {
        TableId::from_list(&names.iter().map(|name| name.to_string()).collect::<Vec<_>>()).unwrap()
    }

    fn grant(principal: &str, object: Object, role: Role) -> Grant {
        let granted_by = "admin".into();
        Grant { principal: principal.into(), object, role, granted_by, granted_at_us: 0 }
    }

    fn known() -> Known {
        let grants = vec![
            grant("root", Object::Namespace(NamespaceId::root()), Role::Admin),
            grant("anna", Object::Namespace(namespace(&["a"])), Role::Writer),
            grant("anna", Object::Table(table(&["b", "c", "t"])), Role::Reader),
            grant("team", Object::Namespace(namespace(&["b"])), Role::Manager),
        ];
        Known::new(1, Vec::new(), grants)
    }

    #[test]
    fn a_role_holds_for_all_that_is_within() {
        let known = known();
        let anna = Caller::known("anna".into(), Vec::new());
        let decide = |role, object| known.decide(&anna, role, &object);
        let (in_a, in_b) =
            (Object::Table(table(&["a", "x", "t"])), Object::Table(table(&["b", "t"])));
        assert_eq!(decide(Role::Writer, in_a.clone()), Decision::Allowed);
        assert_eq!(decide(Role::Manager, in_a), Decision::Forbidden);
        assert_eq!(decide(Role::Reader, in_b.clone()), Decision::Unseen);
        assert_eq!(decide(Role::Reader, Object::Table(table(&["b", "c", "t"]))), Decision::Allowed);
        // The beginning of a name is not the name.
        for id in [namespace(&["aa"]), namespace(&["b", "c", "t"])] {
            assert_eq!(decide(Role::Reader, Object::Namespace(id)), Decision::Unseen);
        }
        // The way to what is seen is seen.
        assert_eq!(decide(Role::Reader, Object::Namespace(namespace(&["b"]))), Decision::Forbidden);
        let with_team = Caller::known("anna".into(), vec!["team".into()]);
        assert_eq!(known.decide(&with_team, Role::Manager, &in_b), Decision::Allowed);
        let nobody = Caller::known("nobody".into(), Vec::new());
        assert_eq!(known.decide(&nobody, Role::Reader, &in_b), Decision::Unseen);
    }

    #[test]
    fn lists_show_what_is_seen() {
        let known = known();
        let anna = Caller::known("anna".into(), Vec::new());
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        let only = |namespaces: &[&str], tables: &[&str]| Seen::Only {
            namespaces: names(namespaces),
            tables: names(tables),
        };
        assert_eq!(known.seen_in(&anna, &NamespaceId::root()), only(&["a", "b"], &[]));
        assert_eq!(known.seen_in(&anna, &namespace(&["a"])), Seen::All);
        assert_eq!(known.seen_in(&anna, &namespace(&["b"])), only(&["c"], &[]));
        assert_eq!(known.seen_in(&anna, &namespace(&["b", "c"])), only(&[], &["t"]));
        assert_eq!(known.seen_in(&anna, &namespace(&["d"])), only(&[], &[]));
    }
}
