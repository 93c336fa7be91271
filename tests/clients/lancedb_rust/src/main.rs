//! Real client: the `lancedb` crate in remote mode.
//!
//! usage: cargo run -- http://127.0.0.1:2333

use std::sync::Arc;
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int64Type};
use arrow_array::{
    FixedSizeListArray, Float64Array, Int64Array, RecordBatch, RecordBatchIterator, StringArray,
};
use arrow_schema::{DataType, Field, Schema};
use futures::TryStreamExt;
use lancedb::connection::Connection;
use lancedb::index::scalar::{
    BTreeIndexBuilder, BloomFilterIndexBuilder, FtsIndexBuilder, FullTextSearchQuery,
    NGramIndexBuilder, ZoneMapIndexBuilder,
};
use lancedb::index::vector::IvfFlatIndexBuilder;
use lancedb::index::{Index, IndexType};
use lancedb::query::{ExecutableQuery, QueryBase, Select};
use lancedb::table::{NewColumnTransform, Table};
use lancedb::{DistanceType, Error, connect};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const DIMENSION: usize = 4;
const WAIT: Duration = Duration::from_secs(120);

/// Rows whose every value follows from their id.
fn rows(ids: std::ops::Range<i64>) -> RecordBatch {
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
        Field::new("price", DataType::Float64, true),
        Field::new("vector", DataType::FixedSizeList(item, DIMENSION as i32), true),
    ]);
    let vectors = ids.clone().map(|id| Some(vec![Some(id as f32); DIMENSION]));
    let texts = ids
        .clone()
        .map(|id| format!("word{id} {} number", if id % 2 == 0 { "even" } else { "odd" }));
    RecordBatch::try_new(
        Arc::new(schema),
        vec![
            Arc::new(Int64Array::from_iter_values(ids.clone())),
            Arc::new(StringArray::from_iter_values(texts)),
            Arc::new(Float64Array::from_iter_values(ids.map(|id| id as f64 / 2.0))),
            Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(
                vectors,
                DIMENSION as i32,
            )),
        ],
    )
    .expect("rows that fit their schema")
}

/// The ids that a query answers, in its order.
async fn ids(query: impl ExecutableQuery) -> Outcome<Vec<i64>> {
    let batches: Vec<RecordBatch> = query.execute().await?.try_collect().await?;
    Ok(batches
        .iter()
        .flat_map(|batch| batch["id"].as_primitive::<Int64Type>().values().to_vec())
        .collect())
}

async fn all(table: &Table) -> Outcome<Vec<i64>> {
    let mut found = ids(table.query().select(Select::columns(&["id"]))).await?;
    found.sort_unstable();
    Ok(found)
}

async fn create(db: &Connection, other: &Connection) -> Outcome<Table> {
    let table = db.create_table("t", rows(0..30)).execute().await?;
    assert_eq!(db.table_names().execute().await?, ["t"]);
    let listed: Vec<String> = db.list_tables(&[], Default::default()).try_collect().await?;
    assert_eq!(listed, ["t"]);
    assert_eq!(other.table_names().execute().await?, [""; 0]);
    assert_eq!(table.version().await?, 1);
    assert_eq!(*table.schema().await?, *rows(0..0).schema());
    assert_eq!(all(&table).await?, (0..30).collect::<Vec<_>>());
    let again = db.create_table("t", rows(0..1)).execute().await;
    assert!(matches!(again, Err(Error::TableAlreadyExists { .. })), "{again:?}");
    let unknown = other.open_table("t").execute().await;
    assert!(matches!(unknown, Err(Error::TableNotFound { .. })), "{unknown:?}");
    let empty = db.create_empty_table("empty", rows(0..0).schema()).execute().await?;
    assert_eq!(empty.count_rows(None).await?, 0);
    db.drop_table("empty", &[]).await?;
    Ok(db.open_table("t").execute().await?)
}

async fn write(table: &Table) -> Outcome {
    assert_eq!(table.add(rows(30..40)).execute().await?.version, 2);
    let parts: Vec<RecordBatch> =
        (0..8).map(|part| rows(100 + part * 10..110 + part * 10)).collect();
    assert_eq!(table.add(parts).write_parallelism(3).execute().await?.version, 3);
    assert_eq!(table.count_rows(None).await?, 120);
    assert_eq!(table.delete("id >= 100").await?.num_deleted_rows, 80);
    let updated = table.update().only_if("id < 2").column("price", "price + 100").execute().await?;
    assert_eq!(updated.rows_updated, 2);
    assert_eq!(table.count_rows(Some("price >= 100".into())).await?, 2);
    let source = rows(38..42);
    let schema = source.schema();
    let mut merge = table.merge_insert(&["id"]);
    merge.when_matched_update_all(None).when_not_matched_insert_all();
    merge.when_not_matched_by_source_delete(Some("id < 2".into()));
    let merged = merge.execute(Box::new(RecordBatchIterator::new([Ok(source)], schema))).await?;
    assert_eq!(
        (merged.num_inserted_rows, merged.num_updated_rows, merged.num_deleted_rows),
        (2, 2, 2)
    );
    assert_eq!(all(table).await?, (2..42).collect::<Vec<_>>());
    Ok(())
}

async fn search(table: &Table) -> Outcome {
    let near = table.query().nearest_to(&[20.2; DIMENSION])?.limit(3);
    assert_eq!(ids(near).await?, [20, 21, 19]);
    let filtered = table.query().only_if("id > 30").nearest_to(&[5.0; DIMENSION])?.limit(1);
    assert_eq!(ids(filtered).await?, [31]);
    let several =
        table.query().nearest_to(&[5.0; DIMENSION])?.add_query_vector(&[30.0; DIMENSION])?.limit(1);
    let mut several = ids(several).await?;
    several.sort_unstable();
    assert_eq!(several, [5, 30]);
    assert_eq!(ids(table.query().only_if("id IN (7, 99)")).await?, [7]);
    assert_eq!(ids(table.take_offsets(vec![3])).await?.len(), 1);
    let unknown = table.count_rows(Some("nothing = 1".into())).await;
    assert!(unknown.is_err_and(|error| error.to_string().contains("nothing")));
    Ok(())
}

async fn index(table: &Table) -> Outcome {
    let flat = IvfFlatIndexBuilder::default().distance_type(DistanceType::L2).num_partitions(1);
    for (column, index) in [
        ("id", Index::BTree(BTreeIndexBuilder::default())),
        ("text", Index::FTS(FtsIndexBuilder::default())),
        ("vector", Index::IvfFlat(flat)),
    ] {
        table.create_index(&[column], index).wait_timeout(WAIT).execute().await?;
    }
    let mut kinds: Vec<_> =
        table.list_indices().await?.into_iter().map(|one| (one.name, one.index_type)).collect();
    kinds.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [
        ("id_idx", IndexType::BTree),
        ("text_idx", IndexType::FTS),
        ("vector_idx", IndexType::IvfFlat),
    ];
    assert_eq!(kinds, expected.map(|(name, kind)| (name.to_string(), kind)));
    let stats = table.index_stats("vector_idx").await?.expect("the statistics of an index");
    assert_eq!((stats.num_indexed_rows, stats.num_unindexed_rows), (40, 0));
    assert_eq!(stats.distance_type, Some(DistanceType::L2));
    assert_eq!(ids(table.query().nearest_to(&[7.1; DIMENSION])?.limit(1)).await?, [7]);
    let text = table.query().full_text_search(FullTextSearchQuery::new("word9".into()));
    assert_eq!(ids(text).await?, [9]);
    // These kinds the other languages' clients cannot ask for.
    for (name, index) in [
        ("zones", Index::ZoneMap(ZoneMapIndexBuilder::default())),
        ("bloom", Index::BloomFilter(BloomFilterIndexBuilder::default())),
    ] {
        let job = table.create_index(&["price"], index).name(name.into()).execute_async().await?;
        job.wait().await?;
    }
    let grams = Index::NGram(NGramIndexBuilder::default());
    table.create_index(&["text"], grams).name("grams".into()).wait_timeout(WAIT).execute().await?;
    let names: Vec<_> = table.list_indices().await?.into_iter().map(|one| one.name).collect();
    for name in ["zones", "bloom", "grams"] {
        assert!(names.iter().any(|one| one == name), "{names:?}");
    }
    assert_eq!(ids(table.query().only_if("price = 4.5")).await?, [9]);
    assert_eq!(ids(table.query().only_if("contains(text, 'word9 ')")).await?, [9]);
    table.drop_index("id_idx").await?;
    let gone = table.drop_index("id_idx").await;
    assert!(matches!(gone, Err(Error::IndexNotFound { .. })), "{gone:?}");
    assert!(table.index_stats("id_idx").await?.is_none());
    Ok(())
}

async fn versions(table: &Table) -> Outcome {
    assert_eq!(table.list_versions().await?.len() as u64, table.version().await?);
    table.tags().await?.create("made", 1).await?;
    table.checkout_tag("made").await?;
    assert_eq!(all(table).await?, (0..30).collect::<Vec<_>>());
    table.checkout_latest().await?;
    assert_eq!(table.count_rows(None).await?, 40);
    let branch = table.create_branch("dev", table.version().await?).await?;
    branch.add(rows(90..92)).execute().await?;
    assert_eq!((branch.count_rows(None).await?, table.count_rows(None).await?), (42, 40));
    let twice = NewColumnTransform::SqlExpressions(vec![("twice".into(), "id * 2".into())]);
    table.add_columns().transform(twice).execute().await?;
    assert_eq!(ids(table.query().only_if("twice = 14")).await?, [7]);
    table.drop_columns(&["twice"]).await?;
    table.checkout(1).await?;
    table.restore().await?;
    assert_eq!(all(table).await?, (0..30).collect::<Vec<_>>());
    Ok(())
}

async fn drop(db: &Connection, table: &Table) -> Outcome {
    db.rename_table("t", "u", &[], &[]).await?;
    assert_eq!(db.table_names().execute().await?, ["u"]);
    db.drop_table("u", &[]).await?;
    assert_eq!(db.table_names().execute().await?, [""; 0]);
    let gone = table.count_rows(None).await;
    assert!(matches!(gone, Err(Error::TableNotFound { .. })), "{gone:?}");
    Ok(())
}

#[tokio::main]
async fn main() -> Outcome {
    let base = std::env::args().nth(1).ok_or("usage: lancedb-smoke http://127.0.0.1:2333")?;
    // A server that is used twice still has the databases of the first time.
    let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    let database = async |name: &str| {
        connect(&format!("db://{name}_{started}"))
            .api_key("sk_test")
            .region("none")
            .host_override(base.trim_end_matches('/'))
            .execute()
            .await
    };
    let (db, other) = (database("rust").await?, database("rust_other").await?);
    let table = create(&db, &other).await?;
    println!("create: ok");
    write(&table).await?;
    println!("write: ok");
    search(&table).await?;
    println!("search: ok");
    index(&table).await?;
    println!("index: ok");
    versions(&table).await?;
    println!("versions: ok");
    drop(&db, &table).await?;
    println!("drop: ok");
    Ok(())
}
