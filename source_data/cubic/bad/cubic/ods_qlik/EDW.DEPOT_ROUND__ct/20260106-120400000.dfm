{
 "dfmVersion": "1.1",
 "taskInfo": {
  "name": "SYNTHETIC_EDW",
  "sourceEndpoint": "SYNTHETIC_SOURCE",
  "sourceEndpointType": "Oracle",
  "sourceEndpointUser": "",
  "replicationServer": "replicate.example",
  "operation": "replicateChanges"
 },
 "fileInfo": {
  "name": "20260106-120400000.csv",
  "extension": "gz",
  "location": "cubic/ods_qlik/EDW.DEPOT_ROUND__ct",
  "startWriteTimestamp": "2026-01-06T12:04:00.000",
  "endWriteTimestamp": "2026-01-06T12:04:00.000",
  "firstTransactionTimestamp": "2026-01-06T12:04:00.000",
  "lastTransactionTimestamp": "2026-01-06T12:04:00.000",
  "content": "changes",
  "recordCount": 2,
  "errorCount": 0
 },
 "formatInfo": {
  "format": "delimited",
  "options": {
   "fieldDelimiter": ",",
   "recordDelimiter": "\n",
   "nullValue": "",
   "quoteChar": "\"",
   "escapeChar": ""
  }
 },
 "dataInfo": {
  "sourceSchema": "EDW",
  "sourceTable": "DEPOT_ROUND",
  "targetSchema": "EDW",
  "targetTable": "DEPOT_ROUND__ct",
  "tableVersion": 1,
  "columns": [
   {
    "ordinal": 1,
    "name": "header__change_seq",
    "type": "STRING",
    "length": 35,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 2,
    "name": "header__change_oper",
    "type": "STRING",
    "length": 1,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 3,
    "name": "header__timestamp",
    "type": "DATETIME",
    "length": 26,
    "precision": 0,
    "scale": 6,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 4,
    "name": "ROUND_ID",
    "type": "INT4",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 1
   },
   {
    "ordinal": 5,
    "name": "DEPOT",
    "type": "STRING",
    "length": 20,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   }
  ]
 }
}
