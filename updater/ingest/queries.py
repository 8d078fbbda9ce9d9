"""The SQL by which `spool`, the one caller, judges all rows of a period together.

A query with $first and $last looks at the rows whose hash lies between the two.
"""

TABLES = """
create table rows (
    key ubigint, id varchar, prompt varchar, completion varchar, subject varchar,
    stratum varchar, holdout boolean, messages varchar,
    content uhugeint, question uhugeint, file varchar, line bigint);
create table quarantine (
    file varchar, line bigint, field varchar, rule varchar, value varchar, is_placed boolean);
create table elsewhere (question uhugeint, holdout boolean);
create table dropped (
    row_id bigint, key ubigint, content uhugeint, question uhugeint, holdout boolean);
"""
# `content` and `question` are MD5 as numbers; the length keeps ("ab", "c") and ("a", "bc") apart.
ADD = """
insert into rows select
    md5_number_lower($salt || ':' || id), id, prompt, completion, subject, stratum,
    coalesce(holdout, md5_number_lower($salt || ':holdout:' || prompt) < $threshold::ubigint),
    messages, md5_number(length(prompt) || ':' || prompt || completion || coalesce(messages, '')),
    md5_number(prompt), file, line
from incoming
"""
# Sums don't hang on the order of the rows, and each row counts. Lengths keep texts apart; nulls
# leave no trace, so that rows without a stratum are told as before there were any. In hex,
# as DuckDB takes 50 microseconds to write a uhugeint in decimal (measured).
DIGEST = """
with told as (
    select concat_ws(':', key, hex(content), holdout, 'stratum ' || length(stratum) || stratum,
        length(id), id, subject) as text from rows
    union all
    select concat_ws(':', field, length(rule), rule, value) from quarantine where is_placed)
select count(*), sum(md5_number_lower(text)), sum(md5_number_upper(text)) from told
"""
# Of one id with several contents the one with the least digest stays: which of them is right
# can't be known, and the choice must not hang on their order.
SETTLE_IDS = """
create or replace table kept as
with torn as (
    select key from rows where key between $first::ubigint and $last::ubigint
    group by key having min(content) <> max(content))
select id, min(content) as content from rows where key in (from torn) group by id
"""
QUARANTINE_CONFLICTS = """
insert into quarantine select file, line, 'id',
    'must be unique: another row has this id with another prompt or completion', rows.id, true
from rows join kept on rows.id = kept.id and rows.content <> kept.content
"""
# Dropped rows are listed, not deleted: deleting 4 * 10^6 of 8 * 10^6 rows, however few at a time,
# ran out of memory (measured), and the list doesn't.
DROP_CONFLICTS = """
insert into dropped select rows.rowid, key, rows.content, question, holdout
from rows join kept on rows.id = kept.id and rows.content <> kept.content
"""
DROP_DUPLICATES = """
insert into dropped
with near as not materialized (
        select rows.rowid as row_id, key, id, subject, stratum, content, question, holdout
        from rows
        anti join (
            select row_id from dropped
            where content between $first::uhugeint and $last::uhugeint) as gone
        on rows.rowid = gone.row_id
        where content between $first::uhugeint and $last::uhugeint),
     repeated as (select content, holdout from near group by all having count(*) > 1),
     placed as (
        select *, row_number() over (
            partition by content, holdout order by key, id, subject nulls last, stratum nulls last)
            as place
        from near semi join repeated using (content, holdout))
select row_id, key, content, question, holdout from placed where place > 1
"""
# `near`: the rows of a range of questions that were not dropped yet.
_NEAR = """
insert into dropped
with near as not materialized (
        select rows.rowid as row_id, key, content, question, holdout from rows
        anti join (
            select row_id from dropped
            where question between $first::uhugeint and $last::uhugeint) as gone
        on rows.rowid = gone.row_id
        where question between $first::uhugeint and $last::uhugeint)
select row_id, key, content, question, holdout from near
"""
DROP_TRAINED = f"""{_NEAR}
where holdout and question in (
    select question from elsewhere
    where not holdout and question between $first::uhugeint and $last::uhugeint)
"""
DROP_LEAKED = f"""{_NEAR}
where not holdout and question in (
    select question from near where holdout
    union all
    select question from elsewhere
    where holdout and question between $first::uhugeint and $last::uhugeint)
"""
COMMONEST_FAULTS = """
with counted as (
    select field, rule, count(*) as num_rows, min({'file': file, 'line': line}) as first
    from quarantine group by field, rule)
select field, rule, num_rows, first.file, first.line, count(*) over () from counted
order by num_rows desc, field, rule limit 5
"""
QUARANTINED = "select file, line, field, rule, value from quarantine order by all"
UNPLACED = "select file, line, field, rule, value from quarantine where not is_placed order by all"
SORTED = """
select key, id, prompt, completion, subject, stratum, messages from rows
anti join (
    select row_id from dropped where key between $first::ubigint and $last::ubigint) as gone
on rows.rowid = gone.row_id
where holdout = $holdout and key between $first::ubigint and $last::ubigint order by key, id
"""
