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
  "name": "20260105-080000250.csv",
  "extension": "gz",
  "location": "cubic/ods_qlik/EDW.GATE_TAP__ct",
  "startWriteTimestamp": "2026-01-05T08:00:00.250",
  "endWriteTimestamp": "2026-01-05T08:00:00.250",
  "firstTransactionTimestamp": "2026-01-05T08:00:00.250",
  "lastTransactionTimestamp": "2026-01-05T08:00:00.250",
  "content": "changes",
  "recordCount": 6,
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
  "targetTable": "GATE_TAP__ct",
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
    "name": "STATION_CODE",
    "type": "STRING",
    "length": 10,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 1
   },
   {
    "ordinal": 5,
    "name": "TAP_NBR",
    "type": "INT8",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 2
   },
   {
    "ordinal": 6,
    "name": "GATE_POSITION",
    "type": "INT1",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 7,
    "name": "ZONE_ID",
    "type": "INT2",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 8,
    "name": "DEVICE_ID",
    "type": "INT4",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 9,
    "name": "MESSAGE_ID",
    "type": "UINT4",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 10,
    "name": "TOKEN_HASH",
    "type": "UINT8",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 11,
    "name": "RIDER_CLASS",
    "type": "NUMERIC",
    "length": 0,
    "precision": 9,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 12,
    "name": "FARE_DUE",
    "type": "NUMERIC",
    "length": 0,
    "precision": 10,
    "scale": 2,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 13,
    "name": "CARRIED_BALANCE",
    "type": "NUMERIC",
    "length": 0,
    "precision": 24,
    "scale": 4,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 14,
    "name": "EXTERNAL_REF",
    "type": "NUMERIC",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 15,
    "name": "LATITUDE",
    "type": "REAL8",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 16,
    "name": "SIGNAL_STRENGTH",
    "type": "REAL4",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 17,
    "name": "IS_TRANSFER",
    "type": "BOOLEAN",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 18,
    "name": "SERVICE_DAY",
    "type": "DATE",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 19,
    "name": "GATE_OPENED",
    "type": "TIME",
    "length": 0,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 20,
    "name": "TAPPED_DTM",
    "type": "DATETIME",
    "length": 27,
    "precision": 0,
    "scale": 7,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 21,
    "name": "CARD_DIGEST",
    "type": "BYTES",
    "length": 8,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 22,
    "name": "RIDER_NOTE",
    "type": "WSTRING",
    "length": 200,
    "precision": 0,
    "scale": 0,
    "primaryKeyPos": 0
   },
   {
    "ordinal": 23,
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
