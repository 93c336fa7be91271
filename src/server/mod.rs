//! The composition root: settings become parts, parts become a running server.

mod listen;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Access, Issuer, Keeper};
use crate::catalog::Catalog;
use crate::commit::{CatalogArbiter, CatalogNeighbours, Engine, Lifetimes, Versioning};
use crate::config::{self, CommitArbiter, Settings, StorageProfile, TokenIssuer, Vending};
use crate::error::{Error, Result};
use crate::http::{
    Admission, AppState, Limits, Rates, Readiness, Refusals, Services, UnknownDatabases, router,
};
use crate::jobs::{self, Duties};
use crate::lake::{self, Lake, Place, WrappingObjectStore};
use crate::model::{Caller, Clock, NamespaceId, Object, Role};
use crate::telemetry::meters;

/// Begins the value of a storage option that a variable of the environment holds.
const OF_VARIABLE: &str = "env:";

/// What a server is made of that is no setting.
#[derive(Debug, Clone)]
pub struct Parts {
    pub clock: Clock,
    /// Stands between the server and its storage.
    pub storage: Option<Arc<dyn WrappingObjectStore>>,
}

impl Default for Parts {
    /// The machine's clock, and storage as it is.
    fn default() -> Self {
        Self { clock: Clock::system(), storage: None }
    }
}

/// Serves until `shutdown` resolves; then takes no new work and lets what runs finish within the
/// grace time.
///
/// # Errors
/// What keeps the server from starting: a database or a storage root that cannot be opened.
pub async fn run(
    settings: Settings,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    run_announced(settings, listener, shutdown, |_| {}).await
}

/// As [`run`], and says so with `ready` once nothing can keep it from serving any more. It is handed
/// the first API key of a new catalog, which nobody can be told again.
///
/// # Errors
/// As [`run`].
pub async fn run_announced(
    settings: Settings,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
    ready: impl FnOnce(Option<&str>),
) -> Result<()> {
    run_with(Parts::default(), settings, listener, shutdown, ready).await
}

/// As [`run_announced`], of these parts.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    parts: Parts,
    settings: Settings,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
    ready: impl FnOnce(Option<&str>),
) -> Result<()> {
    ensure_safe(&settings, &listener)?;
    meters::install()?;
    let tls = match (&settings.tls_certificate, &settings.tls_key) {
        (Some(certificate), Some(key)) => Some(listen::Tls::open(certificate, key).await?),
        (None, None) => None,
        _ => return Err(Error::invalid_input("TLS takes both a certificate and its key")),
    };
    let webhooks = settings.webhooks.iter().map(webhook).collect::<Result<_>>()?;
    // That no new work is taken, and that nobody is answered any more.
    let (stop, over) = (CancellationToken::new(), CancellationToken::new());
    let (state, refusals) = build(parts, &settings, stop.clone(), over.clone()).await?;
    ready(first_key(&state).await?.as_deref());
    // Jobs, and writes whose clients hung up.
    let work = state.work.clone();
    let (gc_interval, event_retention) = (settings.gc_interval, settings.event_retention);
    let duties = Duties { gc_interval, event_retention, webhooks };
    jobs::start(state.engine.in_background(), duties, stop.clone(), &work);
    let refusals = tokio::spawn(refusals);
    let (catalog, engine) = (state.catalog.clone(), state.engine.clone());
    let access = state.access.clone();
    let stopped = stop.clone();
    work.spawn(async move {
        tokio::select! {
            () = access.note_use() => {}
            () = stopped.cancelled() => {
                // What was used since is noted at the next use if this fails.
                let _ = access.note_use_now().await;
            }
        }
    });
    let (counting, stopped) = (state.clone(), stop.clone());
    work.spawn(async move {
        stopped.run_until_cancelled(counting.rates.keep_small()).await;
    });

    let (draining, handle) = (stop.clone(), Handle::new());
    let router = router(state, settings.client_timeout);
    let serve = listen::serve(listener, router, tls, settings.client_timeout, handle.clone());
    let stopping = async move {
        shutdown.await;
        tracing::info!("stopping: no new work is taken");
        draining.cancel();
        handle.graceful_shutdown(None);
        std::future::pending().await
    };
    let until_done = async {
        let served = tokio::select! {
            served = serve => served,
            () = stopping => Ok(()),
        };
        stop.cancel();
        over.cancel();
        work.close();
        work.wait().await;
        served
    };
    let served = tokio::select! {
        served = until_done => served,
        () = async { stop.cancelled().await; tokio::time::sleep(settings.grace).await } => {
            tracing::warn!("the grace time is over: what still runs is cut off");
            Ok(())
        }
    };
    over.cancel();
    let (released, written) = tokio::join!(
        tokio::time::timeout(Duration::from_secs(2), engine.release_jobs()),
        tokio::time::timeout(Duration::from_secs(2), refusals),
    );
    match released {
        Ok(Ok(())) => {}
        outcome => tracing::warn!(?outcome, "jobs that still ran wait for their lease"),
    }
    if !matches!(written, Ok(Ok(()))) {
        tracing::warn!("what was refused last may not be written down");
    }
    // What was cut off may hold connections still.
    let _ = tokio::time::timeout(Duration::from_secs(2), catalog.close()).await;
    served.map_err(|error| Error::internal("serving", error))
}

/// # Errors
/// `InvalidInput` where everybody could do everything from elsewhere, and nobody said so.
fn ensure_safe(settings: &Settings, listener: &TcpListener) -> Result<()> {
    let address =
        listener.local_addr().map_err(|error| Error::internal("reading the address", error))?;
    if settings.auth || settings.insecure || address.ip().is_loopback() {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "whoever reaches {address} could do everything: let callers say who they are with --auth, \
         or say --insecure if that is meant"
    )))
}

/// The first key of a catalog that nobody has a grant on.
async fn first_key(state: &AppState) -> Result<Option<String>> {
    if !state.access.is_guarded() {
        return Ok(None);
    }
    let (catalog, server) = (&state.catalog, Caller::server());
    let keeper = Keeper { catalog, by: &server, now_us: state.engine.now_us() };
    keeper.bootstrap().await
}

/// Answers also the work of writing down what is refused.
async fn build(
    parts: Parts,
    settings: &Settings,
    stopping: CancellationToken,
    over: CancellationToken,
) -> Result<(AppState, impl Future<Output = ()> + use<>)> {
    let catalog = Catalog::open(&settings.database, settings.max_connections).await?;
    match settings.migrate {
        true => catalog.migrate().await?,
        false => catalog.ensure_current().await?,
    }
    let access = match settings.auth {
        true => {
            let issuers = settings.token_issuers.iter().map(issuer).collect::<Result<_>>()?;
            Access::guarded(catalog.clone(), parts.clock.clone(), issuers).await?
        }
        false if settings.token_issuers.is_empty() => Access::open(),
        false => return Err(Error::invalid_input("token_issuers are for a server with --auth")),
    };
    let work = TaskTracker::new();
    let (lake, engine) = engine(parts, settings, &catalog, &work).await?;
    engine.prepare_catalog().await?;
    let limits = Limits {
        max_body_bytes: settings.max_body_bytes,
        max_batch_bytes: settings.max_batch_bytes,
    };
    let Settings { max_requests, max_upload_bytes, .. } = *settings;
    let Settings { request_timeout, client_timeout, .. } = *settings;
    let admission = Admission::new(max_requests, max_upload_bytes, request_timeout, client_timeout);
    let rates = Rates::new(settings.rate_limit, settings.rate_burst);
    let unknown_databases =
        if settings.create_databases { UnknownDatabases::Made } else { UnknownDatabases::Refused };
    let (refusals, writing) = Refusals::start(engine.in_background(), over);
    let state = AppState::new(Services {
        catalog,
        lake,
        engine,
        access,
        limits,
        admission,
        rates,
        unknown_databases,
        refusals,
        readiness: Readiness::default(),
        work,
        stopping,
    });
    Ok((state, writing))
}

/// # Errors
/// `InvalidInput` for a role of a group that is none.
fn issuer((name, settings): (&String, &TokenIssuer)) -> Result<Issuer> {
    let TokenIssuer { issuer, audiences, jwks, clock_skew, groups_claim, roles } = settings.clone();
    let roles = roles.into_iter().map(|one| {
        let on = Object::Namespace(NamespaceId::from_list(&one.namespace)?);
        Ok((one.group, Role::parse(&one.role)?, on))
    });
    let roles = roles.collect::<Result<_>>()?;
    Ok(Issuer { name: name.clone(), issuer, audiences, jwks, clock_skew, groups_claim, roles })
}

/// # Errors
/// `InvalidInput` when clients are to commit past the catalog that decides the versions.
fn versioning(settings: &Settings) -> Result<Versioning> {
    match (settings.commit_arbiter, settings.managed_versioning) {
        (_, true) => Ok(Versioning::Managed),
        (CommitArbiter::Storage, false) => Ok(Versioning::Adopted),
        (CommitArbiter::Catalog, false) => Err(Error::invalid_input(
            "with commit_arbiter = catalog, clients have to commit through this server: \
             managed_versioning cannot be switched off",
        )),
    }
}

/// A value, or what the variable holds that it names.
///
/// # Errors
/// `InvalidInput` for a variable that is not set.
fn meant(what: &str, value: &str) -> Result<String> {
    let Some(variable) = value.strip_prefix(OF_VARIABLE) else { return Ok(value.to_owned()) };
    std::env::var(variable).map_err(|_| {
        Error::invalid_input(format!("{what} is in the variable {variable}, which is not set"))
    })
}

/// # Errors
/// `InvalidInput` for settings that cannot be meant.
fn webhook((name, settings): (&String, &config::Webhook)) -> Result<jobs::Webhook> {
    let config::Webhook { url, secret, kinds, namespace } = settings;
    let secret = meant(&format!("webhooks.{name}: 'secret'"), secret)?;
    let url = meant(&format!("webhooks.{name}: 'url'"), url)?;
    jobs::Webhook::new(name, &url, &secret, kinds.clone(), namespace)
}

/// # Errors
/// `InvalidInput` for an option that is in a variable which is not set.
fn place(
    root: &str,
    options: &BTreeMap<String, String>,
    client_options: &BTreeMap<String, String>,
    vending: Option<&Vending>,
    arbiter: CommitArbiter,
) -> Result<Place> {
    let meant = |(name, value): (&String, &String)| {
        Ok((name.clone(), meant(&format!("the storage option '{name}'"), value)?))
    };
    Ok(Place {
        root: root.to_owned(),
        options: options.iter().map(meant).collect::<Result<_>>()?,
        client_options: client_options.clone(),
        vending: vending.map(|vending| lake::Vending {
            role_arn: vending.role_arn.clone(),
            external_id: vending.external_id.clone(),
            duration: vending.duration,
            sts_endpoint: vending.sts_endpoint.clone(),
            service_account: vending.service_account.clone(),
        }),
        is_arbitrated: arbiter == CommitArbiter::Catalog,
    })
}

async fn engine(
    parts: Parts,
    settings: &Settings,
    catalog: &Catalog,
    work: &TaskTracker,
) -> Result<(Lake, Engine)> {
    let clock = parts.clock;
    let versioning = versioning(settings)?;
    let main = place(
        &settings.storage_root,
        &settings.storage_options,
        &settings.client_storage_options,
        settings.vending.as_ref(),
        settings.commit_arbiter,
    )?;
    let profiles = settings.storage_profiles.iter().map(|(name, profile)| {
        let StorageProfile { root, storage_options, client_storage_options, vending, .. } = profile;
        if root.is_empty() {
            return Err(Error::invalid_input(format!("storage profile '{name}' has no root")));
        }
        let (vending, arbiter) = (vending.as_ref(), profile.commit_arbiter);
        let place = place(root, storage_options, client_storage_options, vending, arbiter)?;
        Ok((name.clone(), place))
    });
    let profiles: BTreeMap<String, Place> = profiles.collect::<Result<_>>()?;
    let has_arbiter = main.is_arbitrated || profiles.values().any(|place| place.is_arbitrated);
    let lake = Lake::open(main, profiles, &settings.allow_locations, parts.storage).await?;
    let lake = if has_arbiter {
        lake.arbitrated_by(Arc::new(CatalogArbiter::new(catalog.clone(), clock.clone())))
    } else {
        lake
    };
    // Where everybody may read everything, a table may refer to whatever is there.
    let lake = if settings.auth {
        lake.among(Arc::new(CatalogNeighbours::new(catalog.clone())))
    } else {
        lake
    };
    let kept = Lifetimes { uploads: settings.upload_ttl, dropped: settings.drop_retention };
    let (waiting, tasks) = (settings.max_waiting, work.clone());
    let engine =
        Engine::new(catalog.clone(), lake.clone(), clock, kept, versioning, waiting, tasks);
    Ok((lake, engine))
}

/// Does some work on a catalog that is there and on its storage, without a server.
///
/// # Errors
/// `InvalidInput` for a database that is not there or has not the schema of this version: from an
/// empty one, everything in storage would look like garbage. Else what `work` ends with.
pub async fn offline<T>(
    settings: &Settings,
    work: impl AsyncFnOnce(&Engine) -> Result<T>,
) -> Result<T> {
    let catalog = Catalog::open_existing(&settings.database).await?;
    let (_, engine) = engine(Parts::default(), settings, &catalog, &TaskTracker::new()).await?;
    let outcome = work(&engine).await;
    // What is still under way at its end is not worth waiting for.
    let _ = tokio::time::timeout(Duration::from_secs(2), catalog.close()).await;
    outcome
}

/// Brings the schema of the database up to date, and nothing else.
pub async fn migrate(settings: &Settings) -> Result<()> {
    let catalog = Catalog::open(&settings.database, settings.max_connections).await?;
    catalog.migrate().await?;
    catalog.close().await;
    Ok(())
}

/// The OpenAPI document, as text.
pub fn openapi() -> Result<String> {
    crate::http::document()
        .to_pretty_json()
        .map_err(|error| Error::internal("writing the OpenAPI document", error))
}
