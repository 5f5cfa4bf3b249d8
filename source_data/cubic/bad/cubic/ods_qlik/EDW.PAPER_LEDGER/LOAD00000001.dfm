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
  "location": "cubic/ods_qlik/EDW.PAPER_LEDGER",
  "startWriteTimestamp": "2026-01-06T12:00:00.000",
  "endWriteTimestamp": "2026-01-06T12:00:00.000",
  "firstTransactionTimestamp": null,
  "lastTransactionTimestamp": null,
  "content": "data",
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
  "sourceTable": "PAPER_LEDGER",
  "targetSchema": "EDW",
  "targetTable": "PAPER_LEDGER",
  "tableVersion": 1,
  "columns": [
   {
    "ordinal": 1,
    "name": "PAGE_ID",
    "type": "INT4",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 1
   },
   {
    "ordinal": 2,
    "name": "ENTRY",
    "type": "STRING",
    "length": 50,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   }
  ]
 }
}
