#!/usr/bin/env bash
# A backup of the lab server while it runs: a folder in LAB_BACKUPS, which is there whole or not at all.
#   set -a; . /etc/mlflow-lab.env; set +a; deploy/lab/backup.sh
# Do not run `mlflow gc` meanwhile: what it removes could be missing from the files.
set -euo pipefail
. "$(dirname "$0")/common.sh"
: "${LAB_BACKUPS:?set it}"

mkdir -p "$LAB_BACKUPS"
exec 9>"$LAB_BACKUPS/.lock"
flock -n 9 || { echo "Error: another backup runs" >&2; exit 75; }
rm -rf "$LAB_BACKUPS"/*.partial
name=$(date -u +%Y%m%dT%H%M%SZ)
part=$LAB_BACKUPS/$name.partial
[[ ! -e $LAB_BACKUPS/$name ]] || fail "$LAB_BACKUPS/$name is there already"
previous=$(find "$LAB_BACKUPS" -mindepth 1 -maxdepth 1 -name '2*Z' | sort | tail -n 1)
mkdir "$part"

# The databases come first: a file is uploaded before its run says that it is whole, so every file that the
# dump knows is there when the files are copied. The rows are counted in the very snapshot that is dumped.
psql -XAtq -d "$LAB_DATABASE" -c "SELECT 1" >/dev/null || fail "the database $LAB_DATABASE cannot be reached"
coproc session { psql -XAtq -d "$LAB_DATABASE"; }
session_id=$session_PID
echo "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT pg_export_snapshot();" >&"${session[1]}"
read -r snapshot <&"${session[0]}"
pg_dump --format=custom --snapshot="$snapshot" --file="$part/database.dump" --dbname="$LAB_DATABASE"
counting >&"${session[1]}"
for _ in "${TABLES[@]}"; do
    read -r line <&"${session[0]}"
    echo "$line"
done >"$part/rows.txt"
echo "\\q" >&"${session[1]}"
wait "$session_id"
pg_dump --format=custom --file="$part/users.dump" --dbname="$LAB_USERS_DATABASE"

if [[ $LAB_ARTIFACTS == *://* ]]; then
    echo "$LAB_ARTIFACTS" >"$part/artifacts.elsewhere"
    echo "! the files in $LAB_ARTIFACTS are not part of this backup: keep versions of the bucket" >&2
else
    copy_files "$LAB_ARTIFACTS" "$part/artifacts" "${previous:+$previous/artifacts}" || fail "the files could not be copied"
fi
{
    echo "written $name"
    pg_dump --version
    "${LAB_PYTHON:-python3}" -c "from importlib.metadata import version; print('mlflow', version('mlflow'))"
} >"$part/about.txt"

(cd "$part" && find . -type f ! -name MANIFEST.sha256 -print0 | sort -z | xargs -0 sha256sum >MANIFEST.sha256)
sync "$part/MANIFEST.sha256"
mv "$part" "$LAB_BACKUPS/$name"
find "$LAB_BACKUPS" -mindepth 1 -maxdepth 1 -name '2*Z' | sort | head -n "-${LAB_KEEP:-14}" | xargs -r rm -rf --
files=$(wc -l <"$LAB_BACKUPS/$name/MANIFEST.sha256")
echo "$LAB_BACKUPS/$name: $(sed -n 's/^runs //p' "$LAB_BACKUPS/$name/rows.txt") runs, $files files, $(du -sh "$LAB_BACKUPS/$name" | cut -f1)"
