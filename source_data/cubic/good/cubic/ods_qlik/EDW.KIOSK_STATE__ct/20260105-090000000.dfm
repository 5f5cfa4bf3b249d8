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
  "name": "20260105-090000000.csv",
  "extension": "gz",
  "location": "cubic/ods_qlik/EDW.KIOSK_STATE__ct",
  "startWriteTimestamp": "2026-01-05T09:00:00.000",
  "endWriteTimestamp": "2026-01-05T09:00:00.000",
  "firstTransactionTimestamp": "2026-01-05T09:00:00.000",
  "lastTransactionTimestamp": "2026-01-05T09:00:00.000",
  "content": "changes",
  "recordCount": 1,
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
  "sourceTable": "KIOSK_STATE",
  "targetSchema": "EDW",
  "targetTable": "KIOSK_STATE__ct",
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
    "name": "KIOSK_ID",
    "type": "INT4",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 1
   },
   {
    "ordinal": 5,
    "name": "HALL",
    "type": "STRING",
    "length": 60,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 6,
    "name": "STATE",
    "type": "STRING",
    "length": 20,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 7,
    "name": "CHECKED_DTM",
    "type": "DATETIME",
    "length": 27,
    "precision": 0,
    "scale": 7,
    "primaryKeyPos": 0
   }
  ]
 }
}
