{
 "dfmVersion": "1.1",
 "taskInfo": {
  "name": "SYNTHETIC_EDW",
  "sourceEndpoint": "SYNTHETIC_SOURCE",
  "sourceEndpointType": "Oracle",
  "sourceEndpointUser": "",
  "replicationServer": "replicate.example",
  "operation": "fullLoad"
 },
 "fileInfo": {
  "name": "LOAD2.csv",
  "extension": "gz",
  "location": "cubic/ods_qlik/EDW.SAMPLE",
  "startWriteTimestamp": "2026-01-05T06:00:02.000",
  "endWriteTimestamp": "2026-01-05T06:00:02.000",
  "firstTransactionTimestamp": null,
  "lastTransactionTimestamp": null,
  "content": "data",
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
  "sourceTable": "SAMPLE",
  "targetSchema": "EDW",
  "targetTable": "SAMPLE",
  "tableVersion": 1,
  "columns": [
   {
    "ordinal": 1,
    "name": "SAMPLE_ID",
    "type": "INT4",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 1
   },
   {
    "ordinal": 2,
    "name": "SAMPLE_NAME",
    "type": "STRING",
    "length": 100,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 3,
    "name": "EDW_INSERTED_DTM",
    "type": "DATETIME",
    "length": 27,
    "precision": 0,
    "scale": 7,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 4,
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
