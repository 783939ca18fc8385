# Shared by backup.sh and restore.sh. Debian's wrappers in PATH choose PostgreSQL's programs, or LAB_PG_BIN.
umask 077
export PATH=${LAB_PG_BIN:+$LAB_PG_BIN:}$PATH
: "${LAB_DATABASE:?set it, see lab.env.example}" "${LAB_USERS_DATABASE:?set it}" "${LAB_ARTIFACTS:?set it}"

TABLES=(experiments runs params tags metrics latest_metrics datasets inputs logged_models registered_models model_versions)

fail() {
    echo "Error: $*" >&2
    exit 1
}

# One line a table: its name and its number of rows.
counting() {
    local query="" table
    for table in "${TABLES[@]}"; do
        query+="${query:+ UNION ALL }SELECT '$table ' || count(*) FROM $table"
    done
    echo "$query;"
}

# Every file below $1 to $2; $3 is an older copy whose equal files are linked in place of copied. A file that
# comes or goes meanwhile is none of a run that the database knew before: tar's 1 is no fault.
copy_files() {
    mkdir -p "$2"
    if command -v rsync >/dev/null; then
        rsync --archive ${3:+--link-dest="$3"} "$1/" "$2/" || [[ $? == 24 ]]
    else
        local codes
        set +e
        tar -C "$1" -cf - . | tar -C "$2" -xpf -
        codes=("${PIPESTATUS[@]}")
        set -e
        ((codes[0] <= 1 && codes[1] == 0))
    fi
}
