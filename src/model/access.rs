use super::{Invalid, NamespaceId, Result, TableId};

/// What one may do with something and with all that is within it. Each role may what those before it
/// may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// See it and read its rows.
    Reader,
    /// Change rows, and make tables.
    Writer,
    /// Make, rename and remove namespaces and tables.
    Manager,
    /// Say who may do what.
    Admin,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Reader, Self::Writer, Self::Manager, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Manager => "manager",
            Self::Admin => "admin",
        }
    }

    /// # Errors
    /// For what is none of the four.
    pub fn parse(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| {
            Invalid::new(format!("'{text}' is no role: reader, writer, manager or admin"))
        })
    }
}

/// What a role is granted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    Namespace(NamespaceId),
    Table(TableId),
}

impl Object {
    /// The root namespace.
    pub fn root() -> Self {
        Self::Namespace(NamespaceId::root())
    }

    /// Whether it is another, or a namespace that the other is in.
    pub fn holds(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Namespace(id), Self::Namespace(other)) => id == other || id.holds(other),
            (Self::Namespace(id), Self::Table(table)) => {
                *id == table.namespace || id.holds(&table.namespace)
            }
            (Self::Table(id), Self::Table(other)) => id == other,
            (Self::Table(_), Self::Namespace(_)) => false,
        }
    }

    /// Its names, from the root.
    pub fn to_list(&self) -> Vec<String> {
        match self {
            Self::Namespace(id) => id.to_list(),
            Self::Table(id) => id.to_list(),
        }
    }
}

/// A role that somebody has on something.
#[derive(Debug, Clone)]
pub struct Grant {
    pub principal: String,
    pub object: Object,
    pub role: Role,
    pub granted_by: String,
    pub granted_at_us: i64,
}

/// An API key without its secret.
#[derive(Debug, Clone)]
pub struct ApiKey {
    pub id: String,
    /// Who calls with it.
    pub principal: String,
    /// The BLAKE3 hash of the secret, in hexadecimal digits.
    pub secret_hash: String,
    pub description: String,
    pub created_by: String,
    pub created_at_us: i64,
    pub expires_at_us: Option<i64>,
    /// To the minute.
    pub last_used_us: Option<i64>,
}

impl ApiKey {
    pub fn is_expired(&self, now_us: i64) -> bool {
        self.expires_at_us.is_some_and(|expires| expires <= now_us)
    }
}

/// The longest name of a principal, in bytes.
const MAX_PRINCIPAL_BYTES: usize = 256;

/// # Errors
/// For what nobody can be called.
pub fn check_principal(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > MAX_PRINCIPAL_BYTES || name.chars().any(char::is_control) {
        return Err(Invalid::new(format!(
            "a principal is text of 1 to {MAX_PRINCIPAL_BYTES} bytes without control characters"
        )));
    }
    Ok(())
}
