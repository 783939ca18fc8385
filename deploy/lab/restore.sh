#!/usr/bin/env bash
# A backup into an empty server: two databases without tables (createdb), no artifacts, the server stopped.
#   set -a; . /etc/mlflow-lab.env; set +a; deploy/lab/restore.sh /srv/mlflow-lab-backups/20261126T120000Z
set -euo pipefail
. "$(dirname "$0")/common.sh"
backup=${1:?give the folder of a backup}
[[ -f $backup/MANIFEST.sha256 ]] || fail "$backup is no whole backup: it has no MANIFEST.sha256"

echo "checking $(wc -l <"$backup/MANIFEST.sha256") files" >&2
(cd "$backup" && sha256sum --check --quiet --strict MANIFEST.sha256) || fail "$backup is damaged; take another one"
for database in "$LAB_DATABASE" "$LAB_USERS_DATABASE"; do
    tables=$(psql -XAtq -d "$database" -c "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'") ||
        fail "there is no database $database: createdb $database"
    [[ $tables == 0 ]] || fail "the database $database is not empty; expected a new one: createdb $database"
done

# The files come first, so that no run is there before its files are.
if [[ -f $backup/artifacts.elsewhere ]]; then
    echo "! the files are in $(cat "$backup/artifacts.elsewhere"), which this does not restore" >&2
else
    [[ $LAB_ARTIFACTS != *://* ]] || fail "this backup's files belong into a folder; set LAB_ARTIFACTS to one"
    [[ -z $(ls -A "$LAB_ARTIFACTS" 2>/dev/null) ]] || fail "$LAB_ARTIFACTS is not empty; expected a new folder"
    copy_files "$backup/artifacts" "$LAB_ARTIFACTS" || fail "the files could not be copied"
fi
restore=(pg_restore --exit-on-error --single-transaction --no-owner --no-privileges)
"${restore[@]}" --dbname="$LAB_DATABASE" "$backup/database.dump"
"${restore[@]}" --dbname="$LAB_USERS_DATABASE" "$backup/users.dump"

if ! diff "$backup/rows.txt" <(psql -XAtq -d "$LAB_DATABASE" -c "$(counting)"); then
    fail "the restored database has other numbers of rows than the one that was dumped"
fi
echo "restored from $backup: $(tr '\n' ',' <"$backup/rows.txt" | sed 's/,$//; s/,/, /g')"
