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
  "name": "LOAD00000002.csv",
  "extension": "gz",
  "location": "cubic/ods_qlik/EDW.GATE_TAP",
  "startWriteTimestamp": "2026-01-06T06:29:57.000",
  "endWriteTimestamp": "2026-01-06T06:29:57.000",
  "firstTransactionTimestamp": null,
  "lastTransactionTimestamp": null,
  "content": "data",
  "recordCount": 5,
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
  "sourceTable": "GATE_TAP",
  "targetSchema": "EDW",
  "targetTable": "GATE_TAP",
  "tableVersion": 1,
  "columns": [
   {
    "ordinal": 1,
    "name": "STATION_CODE",
    "type": "STRING",
    "length": 10,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 1
   },
   {
    "ordinal": 2,
    "name": "TAP_NBR",
    "type": "INT8",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 2
   },
   {
    "ordinal": 3,
    "name": "GATE_POSITION",
    "type": "INT1",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 4,
    "name": "ZONE_ID",
    "type": "INT2",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 5,
    "name": "DEVICE_ID",
    "type": "INT4",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 6,
    "name": "MESSAGE_ID",
    "type": "UINT4",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 7,
    "name": "TOKEN_HASH",
    "type": "UINT8",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 8,
    "name": "RIDER_CLASS",
    "type": "NUMERIC",
    "length": 0,
    "precision": 9,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 9,
    "name": "FARE_DUE",
    "type": "NUMERIC",
    "length": 0,
    "precision": 10,
    "scale": 2,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 10,
    "name": "CARRIED_BALANCE",
    "type": "NUMERIC",
    "length": 0,
    "precision": 24,
    "scale": 4,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 11,
    "name": "EXTERNAL_REF",
    "type": "NUMERIC",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 12,
    "name": "LATITUDE",
    "type": "REAL8",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 13,
    "name": "SIGNAL_STRENGTH",
    "type": "REAL4",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 14,
    "name": "IS_TRANSFER",
    "type": "BOOLEAN",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 15,
    "name": "SERVICE_DAY",
    "type": "DATE",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 16,
    "name": "GATE_OPENED",
    "type": "TIME",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 17,
    "name": "TAPPED_DTM",
    "type": "DATETIME",
    "length": 27,
    "precision": 0,
    "scale": 7,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 18,
    "name": "CARD_DIGEST",
    "type": "BYTES",
    "length": 8,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 19,
    "name": "RIDER_NOTE",
    "type": "WSTRING",
    "length": 200,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 20,
    "name": "RECEIPT",
    "type": "CLOB",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   }
  ]
 }
}
