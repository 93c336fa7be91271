//! The error codes of the spec by name. The list is whole on purpose, used or not.
#![allow(dead_code)]

pub const UNSUPPORTED: u64 = 0;
pub const NAMESPACE_NOT_FOUND: u64 = 1;
pub const NAMESPACE_ALREADY_EXISTS: u64 = 2;
pub const NAMESPACE_NOT_EMPTY: u64 = 3;
pub const TABLE_NOT_FOUND: u64 = 4;
pub const TABLE_ALREADY_EXISTS: u64 = 5;
pub const TABLE_INDEX_NOT_FOUND: u64 = 6;
pub const TABLE_INDEX_ALREADY_EXISTS: u64 = 7;
pub const TABLE_TAG_NOT_FOUND: u64 = 8;
pub const TABLE_TAG_ALREADY_EXISTS: u64 = 9;
pub const TRANSACTION_NOT_FOUND: u64 = 10;
pub const TABLE_VERSION_NOT_FOUND: u64 = 11;
pub const TABLE_COLUMN_NOT_FOUND: u64 = 12;
pub const INVALID_INPUT: u64 = 13;
pub const CONCURRENT_MODIFICATION: u64 = 14;
pub const PERMISSION_DENIED: u64 = 15;
pub const UNAUTHENTICATED: u64 = 16;
pub const SERVICE_UNAVAILABLE: u64 = 17;
pub const INTERNAL: u64 = 18;
pub const INVALID_TABLE_STATE: u64 = 19;
pub const TABLE_SCHEMA_VALIDATION_ERROR: u64 = 20;
pub const THROTTLING: u64 = 21;
pub const TABLE_BRANCH_NOT_FOUND: u64 = 22;
pub const TABLE_BRANCH_ALREADY_EXISTS: u64 = 23;
