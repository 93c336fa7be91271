//! Which storage a folder is in, and how that is spoken to: the storage root, and what profiles name
//! for the tables of some namespaces.

use std::collections::BTreeMap;
use std::sync::Arc;

use lance_io::object_store::{ObjectStoreParams, StorageOptionsAccessor, WrappingObjectStore};

use super::arbiter::Arbiter;
use super::vending::{Vending, Vendor};
use super::{Lake, Location};
use crate::error::{Error, Result};

/// A place for new tables, as the configuration has it.
#[derive(Clone, Default)]
pub struct Place {
    /// A path, or a URI such as `s3://bucket/prefix`.
    pub root: String,
    /// Lance's `storage_options`, for this server. They may hold credentials.
    pub options: BTreeMap<String, String>,
    /// Those that clients are told to use.
    pub client_options: BTreeMap<String, String>,
    /// How clients get credentials for one table, if they do.
    pub vending: Option<Vending>,
    /// Whether the catalog decides which manifest is which version there, and not the storage.
    pub is_arbitrated: bool,
}

/// All places, each with what is needed to speak to it.
pub(super) struct Stores {
    main: Store,
    /// By the names of their profiles.
    profiles: BTreeMap<String, Store>,
}

pub(super) struct Store {
    root: Location,
    params: ObjectStoreParams,
    client_options: BTreeMap<String, String>,
    vendor: Option<Vendor>,
    is_arbitrated: bool,
}

impl Store {
    async fn new(place: Place, wrapper: Option<Arc<dyn WrappingObjectStore>>) -> Result<Self> {
        let root = Location::of_prefix(&place.root)?;
        let vendor = match &place.vending {
            Some(vending) => {
                let (own, told) = (&place.options, &place.client_options);
                Some(Vendor::open(&root, own, told, vending).await?)
            }
            None => None,
        };
        let mut params =
            ObjectStoreParams { object_store_wrapper: wrapper, ..ObjectStoreParams::default() };
        if !place.options.is_empty() {
            let options = place.options.into_iter().collect();
            let accessor = StorageOptionsAccessor::with_static_options(options);
            params.storage_options_accessor = Some(Arc::new(accessor));
        }
        Ok(Self {
            root,
            params,
            client_options: place.client_options,
            vendor,
            is_arbitrated: place.is_arbitrated,
        })
    }
}

impl Stores {
    /// # Errors
    /// `InvalidInput` for a root that is neither a path nor a URI, for one within another, and for
    /// credentials that could not be handed out as a place says.
    pub(super) async fn new(
        main: Place,
        profiles: BTreeMap<String, Place>,
        wrapper: Option<&Arc<dyn WrappingObjectStore>>,
    ) -> Result<Self> {
        let main = Store::new(main, wrapper.cloned()).await?;
        let mut stores = Self { main, profiles: BTreeMap::new() };
        for (name, place) in profiles {
            let store = Store::new(place, wrapper.cloned()).await?;
            let clash = stores.all().find(|other| {
                other.root.is_at_or_in(&store.root) || store.root.is_at_or_in(&other.root)
            });
            if let Some(other) = clash {
                return Err(Error::invalid_input(format!(
                    "the root of storage profile '{name}' and {} are one in the other: each \
                     profile has a root of its own",
                    other.root
                )));
            }
            stores.profiles.insert(name, store);
        }
        Ok(stores)
    }

    fn all(&self) -> impl Iterator<Item = &Store> {
        std::iter::once(&self.main).chain(self.profiles.values())
    }

    /// Where new tables may go: the storage root first.
    pub(super) fn roots(&self) -> impl Iterator<Item = &Location> {
        self.all().map(|store| &store.root)
    }

    fn of(&self, location: &Location) -> &Store {
        let within = |store: &&Store| location.is_at_or_in(&store.root);
        self.profiles.values().find(within).unwrap_or(&self.main)
    }
}

impl Lake {
    /// How the storage that a folder is in is spoken to.
    pub(super) fn params(&self, location: &Location) -> &ObjectStoreParams {
        &self.stores.of(location).params
    }

    /// What clients are told to use for a table, as Lance's `storage_options`.
    pub fn client_options(&self, location: &Location) -> &BTreeMap<String, String> {
        &self.stores.of(location).client_options
    }

    /// Who hands out credentials for the tables of the storage that a folder is in.
    pub(super) fn vendor_of(&self, location: &Location) -> Option<&Vendor> {
        self.stores.of(location).vendor.as_ref()
    }

    /// The root of a profile.
    ///
    /// # Errors
    /// `InvalidInput` when there is no such profile.
    pub fn root_of(&self, profile: &str) -> Result<&Location> {
        self.stores.profiles.get(profile).map(|store| &store.root).ok_or_else(|| {
            Error::invalid_input(format!("this server has no storage profile '{profile}'"))
        })
    }

    /// Whether one storage has both folders.
    pub(super) fn is_one_store(&self, one: &Location, other: &Location) -> bool {
        std::ptr::eq(self.stores.of(one), self.stores.of(other))
    }

    /// Whether an arbiter decides which manifest is which version there, and not storage.
    pub fn is_arbitrated(&self, location: &Location) -> bool {
        self.arbiter_of(location).is_some()
    }

    /// Whether an arbiter does so anywhere.
    pub fn has_arbiter(&self) -> bool {
        self.arbiter.is_some()
    }

    pub(super) fn arbiter_of(&self, location: &Location) -> Option<&Arc<dyn Arbiter>> {
        self.arbiter.as_ref().filter(|_| self.stores.of(location).is_arbitrated)
    }
}
