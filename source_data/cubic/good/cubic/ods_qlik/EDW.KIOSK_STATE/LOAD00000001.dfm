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
  "name": "LOAD00000001.csv",
  "extension": "gz",
  "location": "cubic/ods_qlik/EDW.KIOSK_STATE",
  "startWriteTimestamp": "2026-01-05T07:00:00.000",
  "endWriteTimestamp": "2026-01-05T07:00:00.000",
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
  "sourceTable": "KIOSK_STATE",
  "targetSchema": "EDW",
  "targetTable": "KIOSK_STATE",
  "tableVersion": 1,
  "columns": [
   {
    "ordinal": 1,
    "name": "KIOSK_ID",
    "type": "INT4",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 1
   },
   {
    "ordinal": 2,
    "name": "HALL",
    "type": "STRING",
    "length": 60,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 3,
    "name": "STATE",
    "type": "STRING",
    "length": 20,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 4,
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
