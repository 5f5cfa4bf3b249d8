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
  "name": "LOAD000000BE.csv",
  "extension": "gz",
  "location": "cubic/ods_qlik/EDW.TRANSFER_SLIP",
  "startWriteTimestamp": "2026-01-06T12:00:14.000",
  "endWriteTimestamp": "2026-01-06T12:00:14.000",
  "firstTransactionTimestamp": null,
  "lastTransactionTimestamp": null,
  "content": "data",
  "recordCount": 4,
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
  "sourceTable": "TRANSFER_SLIP",
  "targetSchema": "EDW",
  "targetTable": "TRANSFER_SLIP",
  "tableVersion": 1,
  "columns": [
   {
    "ordinal": 1,
    "name": "SLIP_ID",
    "type": "INT4",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 1
   },
   {
    "ordinal": 2,
    "name": "ZONE",
    "type": "STRING",
    "length": 4,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 3,
    "name": "FARE",
    "type": "NUMERIC",
    "length": 0,
    "precision": 6,
    "scale": 2,
    "primaryKeyPos": 0
   }
  ]
 }
}
