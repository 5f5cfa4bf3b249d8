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
  "name": "20260105-071500123.csv",
  "extension": "gz",
  "location": "cubic/ods_qlik/EDW.SAMPLE__ct",
  "startWriteTimestamp": "2026-01-05T07:15:00.123",
  "endWriteTimestamp": "2026-01-05T07:15:00.123",
  "firstTransactionTimestamp": "2026-01-05T07:15:00.123",
  "lastTransactionTimestamp": "2026-01-05T07:15:00.123",
  "content": "changes",
  "recordCount": 3,
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
  "sourceTable": "SAMPLE",
  "targetSchema": "EDW",
  "targetTable": "SAMPLE__ct",
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
    "name": "SAMPLE_ID",
    "type": "INT4",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 1
   },
   {
    "ordinal": 5,
    "name": "SAMPLE_NAME",
    "type": "STRING",
    "length": 100,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 6,
    "name": "EDW_INSERTED_DTM",
    "type": "DATETIME",
    "length": 27,
    "precision": 0,
    "scale": 7,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 7,
    "name": "EDW_UPDATED_DTM",
    "type": "DATETIME",
    "length": 27,
    "precision": 0,
    "scale": 7,
    "primaryKeyPos": 0
   }
  ]
 }
}
