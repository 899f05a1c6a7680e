#!/usr/bin/env bash
# Runs once, when the database's volume is new: the service's own role, which owns the database and is no superuser,
# and Debezium's, which may read the log and what the migrations grant it. A password that is changed in .env later is
# changed here by ALTER ROLE.
set -euo pipefail

psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\getenv database POSTGRES_DB
\getenv service_password DATABASE_PASSWORD
\getenv cdc_password CDC_DATABASE_PASSWORD

CREATE ROLE experiments LOGIN PASSWORD :'service_password';
CREATE ROLE experimentation_cdc LOGIN REPLICATION PASSWORD :'cdc_password';

ALTER DATABASE :"database" OWNER TO experiments;
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO experimentation_cdc;
SQL
