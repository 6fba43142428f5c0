"""The Helm chart's values: one model of them, from which schema, values.yaml and the tables of the docs are written."""
