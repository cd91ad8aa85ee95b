//! Statements that stay prepared.

/// Makes a statement from a text with `$1`, `$2`, … and a value for each.
///
/// diesel-async keeps a statement prepared if its `QueryId` is static, and knows it by that type: so
/// each text has a type of its own. (`diesel::sql_query` is prepared anew each time, which is one
/// round trip more.)
macro_rules! statement {
    (
        $(#[$doc:meta])*
        $name:ident { $($field:ident: $type:ty => $sql_type:ty),* $(,)? } -> $result:ty,
        $($text:expr),+ $(,)?
    ) => {
        $(#[$doc])*
        #[derive(Debug)]
        struct $name<'a> {
            $($field: $type,)*
            lifetime: std::marker::PhantomData<&'a ()>,
        }

        impl diesel::query_builder::QueryId for $name<'_> {
            type QueryId = $name<'static>;
            const HAS_STATIC_QUERY_ID: bool = true;
        }

        impl diesel::query_builder::Query for $name<'_> {
            type SqlType = $result;
        }

        impl diesel::query_builder::QueryFragment<diesel::pg::Pg> for $name<'_> {
            fn walk_ast<'b>(
                &'b self,
                mut out: diesel::query_builder::AstPass<'_, 'b, diesel::pg::Pg>,
            ) -> diesel::QueryResult<()> {
                $(out.push_sql($text);)+
                $(out.push_bind_param_value_only::<$sql_type, _>(&self.$field)?;)*
                Ok(())
            }
        }
    };
}
pub(super) use statement;
