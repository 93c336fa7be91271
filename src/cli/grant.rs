//! `tiltyard grant`.

use clap::Subcommand;

use super::{block_on, say, settings, with_keeper};
use crate::catalog::access;
use crate::config::Overrides;
use crate::error::{Error, Result};
use crate::model::{NamespaceId, Object, Role, TableId};

#[derive(clap::Args)]
pub(super) struct Grant {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Give a role, in place of the one that the principal has there
    Create {
        /// reader, writer, manager or admin
        #[arg(long)]
        role: String,
        #[command(flatten)]
        on: On,
        #[command(flatten)]
        overrides: Overrides,
    },
    /// Take the role away that a principal has there
    Delete {
        #[command(flatten)]
        on: On,
        #[command(flatten)]
        overrides: Overrides,
    },
    /// List the grants, by what they are on
    List {
        #[command(flatten)]
        overrides: Overrides,
    },
}

#[derive(clap::Args)]
struct On {
    /// Who it is about
    #[arg(long, value_name = "NAME")]
    principal: String,

    /// A namespace, its names joined by $; $ alone is the root
    #[arg(long, value_name = "ID", required_unless_present = "table", conflicts_with = "table")]
    namespace: Option<String>,

    /// A table, its names joined by $
    #[arg(long, value_name = "ID")]
    table: Option<String>,
}

const DELIMITER: &str = "$";

impl On {
    fn object(&self) -> Result<Object> {
        match (&self.namespace, &self.table) {
            (Some(id), _) => Ok(Object::Namespace(NamespaceId::parse(id, DELIMITER)?)),
            (None, Some(id)) => Ok(Object::Table(TableId::parse(id, DELIMITER)?)),
            (None, None) => Err(Error::invalid_input("give --namespace or --table")),
        }
    }
}

pub(super) fn run(grant: Grant) -> Result<()> {
    match grant.what {
        What::Create { role, on, overrides } => {
            let settings = settings(&overrides)?;
            let (role, object) = (Role::parse(&role)?, on.object()?);
            block_on(with_keeper(&settings, async |keeper| {
                keeper.grant(&on.principal, role, &object).await
            }))
        }
        What::Delete { on, overrides } => {
            let settings = settings(&overrides)?;
            let object = on.object()?;
            let gone = block_on(with_keeper(&settings, async |keeper| {
                keeper.revoke(&on.principal, &object).await
            }))?;
            if !gone {
                return Err(Error::invalid_input("the principal has no role of their own there"));
            }
            Ok(())
        }
        What::List { overrides } => {
            let settings = settings(&overrides)?;
            let mut grants = block_on(with_keeper(&settings, async |keeper| {
                access::list_grants(&mut keeper.catalog.read().await?, None).await
            }))?;
            grants.sort_by_key(|grant| (grant.object.to_list(), grant.principal.clone()));
            for grant in grants {
                let names = grant.object.to_list().join(DELIMITER);
                let on = match grant.object {
                    Object::Namespace(_) if names.is_empty() => "the root namespace".to_owned(),
                    Object::Namespace(_) => format!("namespace {names}"),
                    Object::Table(_) => format!("table {names}"),
                };
                say(&format!("{} is {} of {on}", grant.principal, grant.role.as_str()));
            }
            Ok(())
        }
    }
}
